"""The three tokenizers: characters, a published checkpoint's files, bare ids."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import (
    DREAM_ADDED,
    LLADA_ADDED,
    write_dream_tokenizer,
    write_llada_tokenizer,
    write_qwen_tokenizer,
)

from diffpo.models.hub_tokenizer import HubTokenizer
from diffpo.models.tokenizer import CharTokenizer, IdTokenizer, Tokenizer, load_tokenizer

TOKENIZER = CharTokenizer("banana +=12")

WRITERS = {"llada": write_llada_tokenizer, "dream": write_dream_tokenizer}
CONFIGS = {kind: json.loads((GOLDEN / f"{kind}-tiny" / "config.json").read_text()) for kind in WRITERS}
SPECIAL_IDS = range(162, 169)  # of Dream; LLaDA's begin at 160
TYPED = [*LLADA_ADDED.values(), *DREAM_ADDED.values()]
PRINTABLE = st.text("".join(map(chr, range(ord(" "), ord("~") + 1))) + "\n", max_size=40)
PLAIN = PRINTABLE.filter(lambda text: not any(token in text for token in TYPED))  # it draws on constants of the code
HOSTILE = st.lists(PRINTABLE | st.sampled_from(TYPED) | st.sampled_from(["<|", "|>", "<|im_"]), max_size=6).map("".join)


def write(folder: Path, kind: str, **changes: Any) -> dict[str, Any]:
    """Write a checkpoint folder without weights; its config, the golden one with `changes`."""
    folder.mkdir(exist_ok=True)
    config = CONFIGS[kind] | changes
    (folder / "config.json").write_text(json.dumps(config))
    WRITERS[kind](folder)
    return config


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in WRITERS}
    for kind, folder in folders.items():
        write(folder, kind)
    return folders


@pytest.fixture(scope="module")
def hub(folders: dict[str, Path]) -> dict[str, Tokenizer]:
    return {kind: load_tokenizer(folder, CONFIGS[kind], 192) for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def published(folders: dict[str, Path]) -> dict[str, Any]:
    """What transformers makes of the same files."""
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    kinds = {"llada": PreTrainedTokenizerFast, "dream": Qwen2Tokenizer}
    return {kind: kinds[kind].from_pretrained(folder, local_files_only=True) for kind, folder in folders.items()}


@given(st.text(TOKENIZER.alphabet, max_size=30))
def test_text_survives_encoding(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert len(ids) == len(text) and TOKENIZER.decode(ids) == text


def test_ids_are_distinct_and_within_the_vocabulary() -> None:
    assert TOKENIZER.alphabet == " +12=abn"
    ids = [*TOKENIZER.encode(TOKENIZER.alphabet), TOKENIZER.eos_id, TOKENIZER.mask_id]
    assert ids == list(range(TOKENIZER.vocab_size))


def test_decoding_stops_at_eos_and_shows_masks() -> None:
    ids = [*TOKENIZER.encode("ab"), TOKENIZER.mask_id, TOKENIZER.eos_id, *TOKENIZER.encode("n")]
    assert TOKENIZER.decode(ids) == "ab_"


def test_unknown_characters_are_named() -> None:
    with pytest.raises(ValueError, match=r"lacks '\?z'.*has ' \+12=abn'"):
        TOKENIZER.encode("1z+?z")


def test_a_tokenizer_survives_its_file(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    assert vars(load_tokenizer(tmp_path, {}, TOKENIZER.vocab_size)) == vars(TOKENIZER)


def test_characters_do_not_chat() -> None:
    assert not TOKENIZER.chats
    with pytest.raises(ValueError, match="no chat template: prompt with plain text"):
        TOKENIZER.chat([{"role": "user", "content": "ab"}])


def test_importing_tokenizers_imports_no_transformers() -> None:
    check = "import sys, diffpo.models.tokenizer; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_published_files_load_silently_and_without_their_code(folders: dict[str, Path]) -> None:
    check = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("error")
from diffpo.models.tokenizer import load_tokenizer
folder = Path(sys.argv[1])
tokenizer = load_tokenizer(folder, json.loads((folder / "config.json").read_text()), 192)
tokenizer.encode("is " * 500)
tokenizer.chat([{"role": "user", "content": "is " * 500}])
"""
    for folder in folders.values():
        run = subprocess.run([sys.executable, "-c", check, str(folder)], capture_output=True, text=True)
        assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_ids_are_those_of_the_files(hub: dict[str, Tokenizer]) -> None:
    for kind, eos_id in {"llada": 161, "dream": 163}.items():
        tokenizer = hub[kind]
        assert isinstance(tokenizer, HubTokenizer) and tokenizer.chats
        assert (tokenizer.eos_id, tokenizer.mask_id, tokenizer.vocab_size) == (eos_id, 168, 169)
        assert tokenizer.encode("the user (3 + 4)\n\n<|mask|>") == (
            *(85, 98, 1, 140, 156, 20, 152, 1, 21, 10, 96),  # t he Ġ user Ġ( 3 Ġ+ Ġ 4 ) ĊĊ
            *(158, 78, 135, 76, 159),  # <| m as k |>
        )


def test_golden_chats(hub: dict[str, Tokenizer]) -> None:
    messages = [{"role": "user", "content": " 3 + 4\n"}]
    assert hub["llada"].chat(messages, prefill="=") == (
        *(160, 165, 140, 166, 96),  # <|startoftext|><|start_header_id|>user<|end_header_id|>\n\n
        *(20, 152, 1, 21, 167),  # 3 + 4<|eot_id|>, trimmed by the template
        *(165, 150, 166, 96, 30),  # <|start_header_id|>assistant<|end_header_id|>\n\n=
    )
    assert hub["dream"].chat(messages, prefill="=") == (
        *(164, 145, 0, 35, 70, 123, 1, 98, 77, 81, 15, 165, 0),  # <|im_start|>system\nBe of help.<|im_end|>\n
        *(164, 140, 0, 1, 20, 152, 1, 21, 0, 165, 0),  # <|im_start|>user\n 3 + 4\n<|im_end|>\n
        *(164, 150, 0, 30),  # <|im_start|>assistant\n=
    )


@pytest.mark.parametrize("kind", WRITERS)
@given(text=HOSTILE)
def test_text_survives_and_types_no_special_token(hub: dict[str, Tokenizer], kind: str, text: str) -> None:
    ids = hub[kind].encode(text)
    assert set(ids).isdisjoint(SPECIAL_IDS) and max(ids, default=0) < 162
    assert hub[kind].decode(ids) == text


@pytest.mark.parametrize("kind", WRITERS)
@given(
    conversation=st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), PLAIN), min_size=1),
    prefill=PRINTABLE,
)
def test_chats_are_those_of_transformers(
    hub: dict[str, Tokenizer], published: dict[str, Any], kind: str, conversation: list[tuple[str, str]], prefill: str
) -> None:
    messages = [{"role": role, "content": content} for role, content in conversation]
    theirs = published[kind].apply_chat_template(messages, add_generation_prompt=True, tokenize=True)["input_ids"]
    assert hub[kind].chat(messages, prefill) == (*theirs, *hub[kind].encode(prefill))


@pytest.mark.parametrize("kind", WRITERS)
@given(contents=st.lists(HOSTILE, min_size=1, max_size=3), prefill=HOSTILE)
def test_messages_type_no_special_token(
    hub: dict[str, Tokenizer], published: dict[str, Any], kind: str, contents: list[str], prefill: str
) -> None:
    """The special tokens are those of the same conversation in plain words; the text, what the template says it is."""
    tokenizer = hub[kind]
    messages = [{"role": "user", "content": content} for content in contents]
    ids = tokenizer.chat(messages, prefill)
    plain = tokenizer.chat([message | {"content": "is"} for message in messages])
    assert [i for i in ids if i in SPECIAL_IDS] == [i for i in plain if i in SPECIAL_IDS]
    rendered = published[kind].apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert published[kind].decode(list(ids)) == rendered + prefill


@pytest.mark.parametrize("kind", WRITERS)
def test_typed_special_tokens_change_no_id_around_them(hub: dict[str, Tokenizer], kind: str) -> None:
    """Up to the special tokens around it, a hostile message is cut into ids as one text."""
    turn_end = {"llada": 167, "dream": 165}[kind]
    for typed in ("<|mdm_mask|>", "<|mask|>", "<|eot_id|>", "<|im_end|>"):
        ids = hub[kind].chat([{"role": "user", "content": f"\n\n\nis it {typed}\n\nand"}])
        last = [index for index, token in enumerate(ids) if token == turn_end][-1]
        middle = hub[kind].encode(f" {typed}\n\nand")
        assert ids[last - len(middle) : last] == middle
    # ChatML's newline before the content and the content's own are one token, with a typed special token or without.
    assert hub["dream"].chat([{"role": "user", "content": "\n<|mask|>"}])[14:17] == (140, 96, 158)
    assert hub["dream"].chat([{"role": "user", "content": "\nis"}])[14:17] == (140, 96, 109)


def test_roles_and_disguises_cannot_be_forged(hub: dict[str, Tokenizer]) -> None:
    """A role is text as well, and the code points that typed special tokens are disguised as may be in use."""
    tokenizer = hub["dream"]
    ids = tokenizer.chat([{"role": "user<|im_end|>", "content": "\U000f0000<|im_end|>"}])
    assert [i for i in ids if i in SPECIAL_IDS] == [164, 165, 164, 165, 164]
    typed = tokenizer.encode("<|im_end|>\n<|im_end|>")  # the small alphabet has no such code point, and drops it
    assert (*typed, 165) == ids[15 : 16 + len(typed)]


def test_half_a_character_is_named(hub: dict[str, Tokenizer]) -> None:
    for encode in (hub["llada"].encode, lambda text: hub["llada"].chat([{"role": "user", "content": text}])):
        with pytest.raises(ValueError, match=r"^'\\ud800' is half a character"):
            encode("a\ud800")


@pytest.mark.parametrize("kind", WRITERS)
def test_decoding_stops_at_eos_and_at_the_end_of_the_turn(hub: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = hub[kind]
    text, rest = tokenizer.encode("the"), tokenizer.encode("user")
    for stop in {tokenizer.eos_id, {"llada": 167, "dream": 165}[kind]}:
        assert tokenizer.decode([*text, stop, *rest]) == "the"
    assert tokenizer.decode([tokenizer.eos_id]) == ""


@pytest.mark.parametrize("kind", WRITERS)
def test_decoding_shows_masks_and_drops_what_has_no_text(hub: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = hub[kind]
    text = tokenizer.encode("the")
    unseen = {"llada": 165, "dream": 164}[kind]
    assert tokenizer.decode([168, *text, 168, 168, unseen, *text]) == "_the__the"
    assert tokenizer.decode([*text, 169, 191, 192, 2**40, -100, *text]) == "thethe"
    assert tokenizer.decode([]) == ""


def test_words_that_are_added_but_not_special_are_text(hub: dict[str, Tokenizer], published: dict[str, Any]) -> None:
    ids = hub["dream"].encode("<tool_call>is")
    assert ids == tuple(published["dream"].encode("<tool_call>is")) == (160, 109)
    assert hub["dream"].decode(ids) == "<tool_call>is"


@pytest.mark.parametrize("kind", WRITERS)
def test_nobody_types_mask_eos_or_end_of_turn_even_if_the_file_lets_them(tmp_path: Path, kind: str) -> None:
    config = write(tmp_path, kind)

    def let(value: dict[str, Any]) -> None:
        added = value["added_tokens"] if "added_tokens" in value else value["added_tokens_decoder"].values()
        for token in added:
            token["special"] = False

    edit(tmp_path / "tokenizer_config.json", let)
    if kind == "llada":
        edit(tmp_path / "tokenizer.json", let)
    tokenizer = load_tokenizer(tmp_path, config, 192)
    for token in (tokenizer.mask_id, tokenizer.eos_id, {"llada": 167, "dream": 165}[kind]):
        spelled = {"llada": LLADA_ADDED, "dream": DREAM_ADDED}[kind][token]
        assert token not in tokenizer.encode(spelled)
        assert tokenizer.chat([{"role": "user", "content": spelled}]).count(token) == tokenizer.chat(
            [{"role": "user", "content": "is"}]
        ).count(token)


@pytest.mark.parametrize("kind", WRITERS)
def test_saving_copies_the_files_byte_for_byte(tmp_path: Path, kind: str) -> None:
    config = write(tmp_path / "source", kind)
    (tmp_path / "source" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}\r\n")
    (tmp_path / "source" / "model.safetensors").write_text("weights")
    contents = {path.name: path.read_bytes() for path in (tmp_path / "source").iterdir()}
    tokenizer = load_tokenizer(tmp_path / "source", config, 192)
    tokenizer.save(tmp_path / "source")  # over itself, as a run does that goes on
    shutil.rmtree(tmp_path / "source")  # or is gone by then
    (tmp_path / "copy").mkdir()
    tokenizer.save(tmp_path / "copy")
    copied = {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()}
    assert copied == {name: data for name, data in contents.items() if name not in ("config.json", "model.safetensors")}
    assert {"llada": "tokenizer.json", "dream": "tokenization_dream.py"}[kind] in copied
    again = load_tokenizer(tmp_path / "copy", config, 192)
    assert again.encode("the user") == tokenizer.encode("the user") and again.vocab_size == tokenizer.vocab_size
    assert again.chat([{"role": "user", "content": "is"}]) == (109,)  # chat_template.jinja goes before the config's


@pytest.mark.parametrize("change", [{}, {"chat_template": ""}])
def test_a_tokenizer_without_template_does_not_chat(tmp_path: Path, change: dict[str, str]) -> None:
    config = write(tmp_path, "llada")
    edit(tmp_path / "tokenizer_config.json", lambda value: (value.pop("chat_template"), value.update(change)))
    tokenizer = load_tokenizer(tmp_path, config, 192)
    assert not tokenizer.chats and tokenizer.encode("is") == (109,)
    with pytest.raises(ValueError, match=r"no chat template: put chat_template\.jinja into its folder"):
        tokenizer.chat([{"role": "user", "content": "is"}])


def test_texts_are_never_cut_or_padded(tmp_path: Path) -> None:
    config = write(tmp_path, "llada")
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    edit(tmp_path / "tokenizer.json", lambda value: value.update(truncation=truncation))
    assert len(load_tokenizer(tmp_path, config, 192).encode("is" * 9)) == 9


def test_texts_have_the_same_ids_each_time_where_a_file_drops_merges(tmp_path: Path) -> None:
    """BPE dropout, of somebody's training, is saved with a tokenizer."""
    config = write(tmp_path, "llada")
    plain = load_tokenizer(tmp_path, config, 192)
    edit(tmp_path / "tokenizer.json", lambda value: value["model"].update(dropout=0.5))
    dropping, text = load_tokenizer(tmp_path, config, 192), "the system and the assistant" * 4
    assert dropping.encode(text) == plain.encode(text)
    assert dropping.chat([{"role": "user", "content": text}]) == plain.chat([{"role": "user", "content": text}])


def test_eos_and_mask_fall_back_to_the_tokenizer(tmp_path: Path) -> None:
    config = write(tmp_path, "dream")
    bare = {key: value for key, value in config.items() if not key.endswith("_token_id")}
    tokenizer = load_tokenizer(tmp_path, bare, 192)
    assert (tokenizer.eos_id, tokenizer.mask_id) == (163, 168)
    both = load_tokenizer(tmp_path, config | {"eos_token_id": 165}, 192)
    assert both.eos_id == 165


def test_a2d_takes_its_ids_from_the_tokenizer(tmp_path: Path) -> None:
    """Its mask, and its padding, which fills canvases after the EOS that ends a turn; config.json knows neither."""
    write_qwen_tokenizer(tmp_path)
    config = {"model_type": "a2d-qwen3", "eos_token_id": 160, "mask_token_id": 5}
    tokenizer = load_tokenizer(tmp_path, config, 192, own_ids=True)
    assert (tokenizer.mask_id, tokenizer.eos_id, tokenizer.end_of_turn) == (168, 161, (160,))
    assert tokenizer.decode([*tokenizer.encode("is"), 160, 161]) == "is"
    edit(tmp_path / "tokenizer_config.json", lambda value: value.pop("pad_token"))
    edit(tmp_path / "special_tokens_map.json", lambda value: value.pop("pad_token"))
    tokenizer = load_tokenizer(tmp_path, config, 192, own_ids=True)
    assert (tokenizer.mask_id, tokenizer.eos_id, tokenizer.end_of_turn) == (168, 160, ())


@pytest.mark.parametrize(
    ("replaced", "eos", "others"),
    [
        ({}, "<|im_end|>", set()),
        ({"<|im_end|>": "<|role_end|>"}, "<|endoftext|>", set()),  # LLaDA2's, by no name of ours
        ({"<|fim_middle|>": "<|eot_id|>"}, "<|im_end|>", {166}),  # ends turns of other models: no second end here
        ({"content'] + '<|im_end|>": "content'] + '"}, "<|fim_prefix|>", {165}),  # closed by no token
    ],
)
def test_an_answer_is_over_where_the_template_closes_it_and_at_the_tokenizers_own_eos(
    replaced: dict[str, str], eos: str, others: set[int], tmp_path: Path
) -> None:
    write_qwen_tokenizer(tmp_path)
    for file in tmp_path.iterdir():
        text = file.read_text()
        for before, after in replaced.items():
            text = text.replace(before, after)
        file.write_text(text)
    edit(tmp_path / "tokenizer_config.json", lambda value: value.update(eos_token=eos))
    tokenizer = load_tokenizer(tmp_path, {}, 192, own_ids=True)
    assert (tokenizer.eos_id, tokenizer.end_of_turn, tokenizer.stops) == (161, (160,), {160, 161} | others)
    for end in tokenizer.stops:
        assert tokenizer.decode([*tokenizer.encode("is"), end, *tokenizer.encode("the")]) == "is"


def test_a_template_that_asks_for_the_day_is_told_the_same_one_every_day(tmp_path: Path) -> None:
    write_qwen_tokenizer(tmp_path)
    asks = "{% if strftime_now is defined %}{{ strftime_now( '%d %b %Y' ) + strftime_now(\"%H\") }}{% endif %}"
    edit(tmp_path / "tokenizer_config.json", lambda value: value.update(chat_template=asks))
    tokenizer = load_tokenizer(tmp_path, {}, 192, own_ids=True)
    assert tokenizer.chat([{"role": "user", "content": "is"}]) == tokenizer.encode("26 Jul 202400")


def test_pieces_keep_the_space_that_some_tokenizers_leave_out_where_a_text_begins(tmp_path: Path) -> None:
    """Llama 2's: characters, bytes for what is none of them, and a space put before every text."""
    from tokenizers import AddedToken, decoders, models, normalizers
    from tokenizers import Tokenizer as Fast

    letters = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁ahi"]
    fast = Fast(models.BPE({token: at for at, token in enumerate(letters)}, [], byte_fallback=True))
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
    fast.decoder = decoders.Sequence(list(steps))
    fast.add_special_tokens([AddedToken("</s>"), AddedToken("<mask>")])
    fast.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>", "mask_token": "<mask>"}')
    tokenizer = load_tokenizer(tmp_path, {}, 300, own_ids=True)
    ids = tokenizer.encode("hi a\né")
    assert tokenizer.decode(ids) == "hi a\né" and tokenizer.decode([*ids[:3], tokenizer.mask_id, *ids[3:5]]) == "hi_ a"
    assert "".join(map(tokenizer.piece, ids[:6])) == " hi a\n"
    assert [tokenizer.piece(index) for index in (tokenizer.eos_id, tokenizer.mask_id, 299)] == ["", "_", ""]


def test_a_template_that_thinks_is_told_not_to(tmp_path: Path) -> None:
    """Thoughts are closed before the answer begins, in prompts of rollouts and of fine-tuning alike."""
    write_qwen_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path, {"eos_token_id": 160}, 192, own_ids=True)
    blank = tokenizer.encode("\n\n")
    ids = tokenizer.chat([{"role": "user", "content": "is"}], prefill="the")
    assert ids[-len(tokenizer.encode("the")) - 2 - 2 * len(blank) :] == (
        163,
        *blank,
        164,
        *blank,
        *tokenizer.encode("the"),
    )


def test_the_vocabulary_is_capped_at_the_models(tmp_path: Path) -> None:
    assert load_tokenizer(tmp_path, write(tmp_path, "dream", mask_token_id=166), 167).vocab_size == 167


def test_a_token_beyond_the_models_vocabulary_is_named(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tmp_path, write(tmp_path, "llada", mask_token_id=162), 166)
    assert tokenizer.encode("is") == (109,)
    with pytest.raises(ValueError, match=r"the tokenizer's '<\|eot_id\|>' is id 167, beyond the .* vocabulary of 166"):
        tokenizer.chat([{"role": "user", "content": "is"}])


@pytest.mark.parametrize(
    ("changes", "vocab_size", "error"),
    [
        ({"mask_token_id": None}, 192, r"config\.json: no mask_token_id; add the id"),
        ({"mask_token_id": 168}, 168, r"config\.json: mask_token_id is 168, .*vocabulary of 168"),
        ({"mask_token_id": 161}, 192, r"config\.json: mask and EOS are one id, 161: give mask_token_id and "),
        ({"mask_token_id": "168"}, 192, r"config\.json: mask_token_id is '168', not one id"),
        ({"eos_token_id": [161, 167]}, 192, r"config\.json: eos_token_id is \[161, 167\], not one id"),
        ({"eos_token_id": 180}, 192, r"EOS is id 180, which the tokenizer does not know; mend config\.json"),
    ],
)
def test_ids_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, Any], vocab_size: int, error: str) -> None:
    config = write(tmp_path, "llada", **changes)
    with pytest.raises(ValueError, match=error):
        load_tokenizer(tmp_path, config, vocab_size)


def test_files_of_two_checkpoints_are_refused(tmp_path: Path) -> None:
    """A vocab.json that is one token short would shift every special token by one."""
    config = write(tmp_path, "dream")
    edit(tmp_path / "vocab.json", lambda value: value.pop("~"))
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: '<tool_call>' is to be id 160, but is id"):
        load_tokenizer(tmp_path, config, 192)


def test_a_broken_tokenizer_is_named(tmp_path: Path) -> None:
    config = write(tmp_path, "llada")
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=f"{tmp_path}: cannot read its tokenizer files: "):
        load_tokenizer(tmp_path, config, 192)


@pytest.mark.parametrize(("kind", "lost"), [("llada", "tokenizer.json"), ("dream", "merges.txt")])
def test_without_its_files_a_checkpoint_reads_ids(tmp_path: Path, kind: str, lost: str) -> None:
    config = write(tmp_path, kind)
    (tmp_path / lost).unlink()
    tokenizer = load_tokenizer(tmp_path, config, 192)
    assert isinstance(tokenizer, IdTokenizer) and not tokenizer.chats
    assert (tokenizer.eos_id, tokenizer.mask_id) == ({"llada": 161, "dream": 163}[kind], 168)
    with pytest.raises(ValueError, match="no mask_token_id"):
        load_tokenizer(tmp_path, config | {"mask_token_id": None}, 192)


def test_alphabets_go_before_all_else(tmp_path: Path) -> None:
    config = write(tmp_path, "llada")
    TOKENIZER.save(tmp_path)
    assert isinstance(load_tokenizer(tmp_path, config, TOKENIZER.vocab_size), CharTokenizer)


def test_bare_ids(tmp_path: Path) -> None:
    tokenizer = IdTokenizer(vocab_size=20, eos_id=18, mask_id=19)
    assert tokenizer.encode(" 5 17\n0 ") == (5, 17, 0) and tokenizer.encode("") == ()
    assert tokenizer.decode([5, 19, 17, 18, 3]) == "5 _ 17"
    tokenizer.save(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="token id 20 is beyond the model's vocabulary: ids are below 20"):
        tokenizer.encode("5 20")
    with pytest.raises(ValueError, match="no chat template"):
        tokenizer.chat([])


@pytest.mark.parametrize("text", ["two", "5,17", "-5", "5 ²", "1.5", "<|mask|>", "9" * 5000])
def test_text_without_a_tokenizer_says_what_to_do(text: str) -> None:
    remedy = r"no tokenizer \(tokenizer\.json, or vocab\.json and merges\.txt\): put its files into the folder"
    with pytest.raises(ValueError, match=f"{remedy}, or write token ids such as '5 17 42'"):
        IdTokenizer(192, 161, 168).encode(text)
