"""What keeps most of a causal parent while it becomes a diffusion LM: blocks that grow, fixed blocks, or the full mask.

    python benchmarks/adaptation.py [--seeds 0 1 2 3 4] [--output runs/adaptation] [--table]

A parent of 0.3 million parameters, in the layout of Llama, is trained from left to right on arithmetic with its steps
written out (`tiny_steps`, as text of single characters), and then goes on as each of VARIANTS on the same rows, for as
many steps. A seed changes the parent, the order of rows and the masks. What counts is the NELBO of held-out rows, nats
a canvas position: a bound of the log-likelihood in every variant, with masks that are the same at each evaluation.
What is done is not done again. --table only prints and draws (docs/images/adaptation.svg) what the committed files say:
these runs, and those of SmolLM2-135M on a card, of the commands that stand in its file.
"""

from __future__ import annotations

import argparse
import json
import shutil
from itertools import islice
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from diffpo.config import LoadConfig, LoraConfig, OptimConfig, SftConfig, TaskConfig
from diffpo.lab.study.statistics import statistic
from diffpo.models.convert import convert
from diffpo.tasks import load_tiny_task
from diffpo.tasks.base import Split
from diffpo.training.metrics import read_metrics
from diffpo.training.sft import fine_tune

PARENT_STEPS, STEPS, BATCH, HELD_OUT = 600, 150, 32, 256
VARIANTS = {
    "blocks of 4": {"blocks": (4,)},
    "blocks of 4, causal context": {"blocks": (4,), "causal": True},
    "growing, 1 2 4": {"blocks": (1, 2, 4)},
    "blocks of 4, no shift": {"blocks": (4,), "shift": False},
    "full mask": {"full": True},
    "full mask, no shift": {"full": True, "shift": False},
}
COLOURS = {name: f"C{place}" for place, name in enumerate([*VARIANTS, "blocks of 1"])}
TINY, CARD = Path("benchmarks/results/adaptation.json"), Path("benchmarks/results/smollm2_card.json")
SHOWN = (25, 75)
ALPHABET = "0123456789+-*= "


def write_rows(folder: Path) -> tuple[str, str]:
    """Rows to learn from and rows held out, as files."""
    task, names = load_tiny_task(TaskConfig("tiny_steps")), []
    sizes: dict[Split, int] = {"train": 8_000, "test": HELD_OUT}
    for split, num in sizes.items():
        path = folder / f"{split}.jsonl"
        rows = ({"prompt": p.text, "completion": task.solution(p)} for p in islice(task.prompts(split, num), num))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        names.append(str(path))
    return names[0], names[1]


def write_parent(folder: Path, seed: int) -> None:
    """A random Llama of single characters."""
    vocabulary = {token: index for index, token in enumerate([*ALPHABET, "<eos>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>").save_pretrained(folder)
    torch.manual_seed(seed)
    shape = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
        eos_token_id=len(ALPHABET),
        pad_token_id=len(ALPHABET),
    )
    LlamaForCausalLM(shape).save_pretrained(folder)


def learn(model: Path, output: Path, seed: int, steps: int, files: tuple[str, str], blocks: tuple[int, ...]) -> None:
    """Fine-tune what lies in `model`, unless that is done."""
    if (output / "policy").exists():
        return
    rate = OptimConfig(
        learning_rate=1e-3, warmup_steps=20, lr_schedule="cosine", weight_decay=0.01, micro_batch_tokens=1 << 20
    )
    config = SftConfig(
        model=str(model),
        data=files[0],
        eval_data=files[1],
        eval_every=25,
        output=str(output),
        steps=steps,
        batch_size=BATCH,
        gen_length=64,
        blocks=blocks,
        seed=seed,
        save_every=10 * steps,
        chat_template=False,
        lora=LoraConfig(rank=0),
        optim=rate,
        load=LoadConfig(device="cpu", dtype="float32"),
        num_threads=1,
    )
    fine_tune(config, resume=output.exists(), quiet=True)


def run(folder: Path, seed: int) -> None:
    files, base = write_rows(folder), folder / f"seed_{seed}"
    if not (base / "causal").exists():
        write_parent(base / "random", seed)
        convert(base / "random", base / "causal", block_length=1)
    learn(base / "causal", base / "parent", seed, PARENT_STEPS, files, (1,))
    for name, settings in VARIANTS.items():
        start = base / "start" / name
        if not start.exists():  # the parent's weights in another pattern of attention: two values of its config
            shutil.copytree(base / "parent" / "policy", start)
            config = json.loads((start / "config.json").read_text())
            config |= {"right_shift_logits": settings.get("shift", True)}
            config |= {"block_size": None} if settings.get("full") else {}
            config |= {"causal_context": True} if settings.get("causal") else {}
            (start / "config.json").write_text(json.dumps(config))
        learn(start, base / name, seed + 1000, STEPS, files, settings.get("blocks", ()))


def collect(folder: Path, seeds: list[int]) -> None:
    """Write the held-out losses of each variant, by step and seed, for the table."""
    found: dict[str, dict[str, list[float]]] = {}
    for name in VARIANTS:
        for seed in seeds:
            for row in read_metrics(folder / f"seed_{seed}" / name / "metrics.jsonl"):
                if "eval/loss" in row:
                    found.setdefault(name, {}).setdefault(f"{row['step'] + 1:.0f}", []).append(row["eval/loss"])
    TINY.write_text(json.dumps({"seeds": seeds, "held_out": found}, indent=1) + "\n")


def show() -> None:
    """Print what the files say, and draw it."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    tiny, card = (json.loads(path.read_text()) for path in (TINY, CARD))
    first, last = next(iter(tiny["held_out"].values())), str(STEPS)
    columns = (*(f"step {step}" for step in SHOWN), f"step {last}", "less the first, paired")
    losses = Table("variant", "seeds", *columns, title="0.3 M parameters")
    for name, by_step in tiny["held_out"].items():
        values = [by_step[str(step)] for step in (*SHOWN, STEPS)]
        values.append([mine - its for mine, its in zip(by_step[last], first[last], strict=True)])
        found = [statistic(it) for it in values]
        cells = [f"{it.mean:.3f} ± {it.half_width:.3f}" if it else "-" for it in found]
        losses.add_row(name, str(len(tiny["seeds"])), *cells)
        axes[0].plot([int(step) for step in by_step], [fmean(it) for it in by_step.values()], COLOURS[name], label=name)
    answers = Table("variant", "NELBO", "problems", "sampler", "accuracy %", "calls", title=card["model"])
    for name, run in card["runs"].items():
        axes[1].plot([int(step) for step in run["held_out"]], list(run["held_out"].values()), COLOURS[name], label=name)
        for it in run["evaluations"]:
            interval = f"{100 * it['accuracy']:.1f} [{100 * it['low']:.1f}, {100 * it['high']:.1f}]"
            nelbo = list(run["held_out"].values())[-1]
            answers.add_row(name, f"{nelbo:.3f}", it["prompts"], it["sampler"], interval, f"{it['nfe']:.1f}")
    for axis, title in zip(axes, ("0.3 M parameters, means over seeds", "135 M parameters, one run"), strict=True):
        axis.set(xlabel="steps of adaptation", title=title, yscale="log")
        axis.legend(frameon=False, fontsize="small")
    axes[0].set_ylabel("NELBO of held-out rows, nats a position")
    figure.savefig("docs/images/adaptation.svg", bbox_inches="tight")
    for table in (losses, answers):
        Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--output", default="runs/adaptation")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    folder = Path(arguments.output)
    if not arguments.table:
        folder.mkdir(parents=True, exist_ok=True)
        for seed in arguments.seeds:
            run(folder, seed)
        collect(folder, arguments.seeds)
    show()


if __name__ == "__main__":
    main()
