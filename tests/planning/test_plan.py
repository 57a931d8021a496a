"""Plans: against what real steps take, against the model's own counts, and suggestions that hold."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import GOLDEN, request, tiny_policy

from diffpo.cli import main
from diffpo.config import (
    LoadConfig,
    LoraConfig,
    ObjectiveConfig,
    OptimConfig,
    RolloutConfig,
    ThresholdConfig,
    TrainConfig,
)
from diffpo.models.policy import load_policy
from diffpo.models.published import PUBLISHED
from diffpo.planning import rehearsal
from diffpo.planning.changes import changes, edits_by_rule, roomy_gpu
from diffpo.planning.gpus import GPUS, find_gpu
from diffpo.planning.plan import Cluster, Plan, find_start, make_model, plan
from diffpo.planning.steps import expected_nfe, rl_step
from diffpo.processes.world import World
from diffpo.rollout.engine import generate
from diffpo.rollout.slots import Room, Slots
from diffpo.training.checkpoint import save_checkpoint
from diffpo.training.start import load_start
from diffpo.training.state import TrainState

LLADA = "GSAI-ML/LLaDA-8B-Instruct"
CONFIG = TrainConfig(
    model=LLADA,
    steps=100,
    prompts_per_step=16,
    lora=LoraConfig(rank=128),
    rollout=RolloutConfig(gen_length=256, block_length=32, num_slots=64),
    objective=ObjectiveConfig(beta=0.04),
    optim=OptimConfig(micro_batch_tokens=4104, gradient_checkpointing=True),
)
SAMPLER = TrainConfig(model=LLADA, train="sampler", rollout=CONFIG.rollout)
H100 = Cluster(find_gpu("h100"))


def benchmark(name: str) -> ModuleType:
    """A script of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "benchmarks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plan_of(config: TrainConfig = CONFIG, cluster: Cluster = H100) -> Plan:
    return plan(config, find_start(config), cluster)


# --- memory and arithmetic against a real step ---------------------------------------------------------------------

STEPS = {
    "lora": "bfloat16",
    "lora, checkpointing": "float32",
    "full, a latent at a time": "float32",
    "full, fp32, checkpointing, all at once": "float32",
    "full, A2D": "bfloat16",
    "lora, blocks": "float32",
    "lora, experts": "float32",
    "full, experts": "bfloat16",
    "sft, lora": "bfloat16",
    "sft, lora, checkpointing": "float32",
    "sft, full, blocks": "float32",
}
"""Cases of the small model, and the dtype of their weights: few CPUs are fast in half precision."""


def small(bench: Any, case: str, dtype: str) -> tuple[Any, Any, int]:
    shape, config = bench.small(case)
    return shape, replace(config, load=replace(config.load, dtype=dtype)), bench.SMALL_PROMPT


def test_memory_is_within_5_percent_of_what_a_step_takes() -> None:
    """Peaks of small steps, in a process of its own: checks of shapes would hold on to tensors."""
    code = f"""
import json, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]}
import test_plan
bench = test_plan.benchmark("plan_memory")
peaks = {{case: bench.measure(*test_plan.small(bench, case, dtype)) for case, dtype in test_plan.STEPS.items()}}
print(json.dumps(peaks))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    bench = benchmark("plan_memory")
    for case, taken in json.loads(done.stdout.splitlines()[-1]).items():
        plan_of_it = bench.estimate(*small(bench, case, STEPS[case]))
        planned = {phase.name: phase.bytes for phase in plan_of_it.phases}
        if case.startswith("sft"):  # planned for the most masks that rows may have; these have as many as they drew
            assert all(0.95 * took <= planned[phase] <= 1.25 * took for phase, took in taken.items()), case
        else:
            assert planned == pytest.approx(taken, rel=0.05), case


@pytest.mark.parametrize(
    "case",
    [
        *("lora, KL, 1 latent, 4 slots", "full, checkpointing", "lora, ELBO, 2 pairs", "full, A2D"),
        *("lora, blocks", "lora, experts", "full, experts", "sft, lora", "sft, full, blocks"),
    ],
)
def test_operations_are_what_torch_counts(case: str) -> None:
    bench = benchmark("plan_memory")
    subject = small(bench, case, "float32")
    counted = bench.count(*subject)
    for phase in bench.estimate(*subject).phases:
        if phase.name in counted:
            runs = 2 if phase.name == "old log-probs" and "KL" in case else 1  # and the reference's
            assert runs * phase.flops == pytest.approx(counted[phase.name], rel=0.01), phase.name


@pytest.mark.parametrize("case", ["lora, checkpointing", "full", "full, A2D", "lora, experts"])
def test_what_further_blocks_add_is_what_they_hold(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four blocks of seven are run, or all: byte for byte the same."""
    bench = benchmark("plan_memory")
    shape, config = bench.small(case)
    shape = replace(shape, num_layers=7)

    def parts() -> list[dict[str, float]]:
        for found in (rehearsal._policy, rehearsal._decode, rehearsal._score, rehearsal._learn, rehearsal._step):
            found.cache_clear()
        return [dict(phase.parts) for phase in bench.estimate(shape, config, bench.SMALL_PROMPT).phases]

    extended = parts()
    monkeypatch.setattr(rehearsal, "BLOCKS", 7)
    assert parts() == extended


# --- counts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llada-tiny", "dream-tiny", "a2d-qwen3-tiny", "a2d-qwen2-tiny"])
@pytest.mark.parametrize("targets", [(), ("q_proj", "up_proj")])
def test_parameters_are_those_of_the_model(name: str, targets: tuple[str, ...]) -> None:
    config = TrainConfig(model=str(GOLDEN / name), lora=LoraConfig(rank=4, targets=targets), load=LoadConfig("float32"))
    model = make_model(config, find_start(config))
    policy = load_policy(config.model)
    assert model.in_blocks + model.in_root + model.in_head == sum(p.numel() for p in policy.denoiser.parameters())
    policy.add_adapters(config.lora)
    assert model.in_adapters == model.learning == sum(p.numel() for p in policy.trainable().values())
    assert model.base == 4 and make_model(replace(config, load=LoadConfig()), find_start(config)).base == 2


def test_an_adapter_on_the_model_counts() -> None:
    adapter = str(GOLDEN / "llada-tiny" / "lora")
    policy = load_policy(GOLDEN / "llada-tiny", adapter=adapter)
    config = TrainConfig(model=str(GOLDEN / "llada-tiny"), load=LoadConfig(adapter=adapter))
    model = make_model(config, find_start(config))
    assert model.learns == "adapters" and model.in_adapters == sum(p.numel() for p in policy.trainable().values())


def test_what_a_run_left_is_planned_as_it_is_loaded(tmp_path: Path) -> None:
    """Adapters on some linears, under the pattern that names them, and a sampler head without weights of its own."""
    policy = load_policy(GOLDEN / "llada-tiny")
    policy.add_adapters(LoraConfig(rank=4, targets=("q_proj",)))
    policy.save_pretrained(tmp_path / "run" / "policy")
    for load in (LoadConfig(adapter=str(tmp_path / "run")), LoadConfig()):
        config = TrainConfig(model=str(GOLDEN / "llada-tiny" if load.adapter else tmp_path / "run"), load=load)
        model = make_model(config, find_start(config))
        assert model.in_adapters == sum(p.numel() for p in policy.trainable().values())
    policy = load_policy(GOLDEN / "llada-tiny")
    policy.add_head(ThresholdConfig())
    policy.save_pretrained(tmp_path / "head", {})
    assert find_start(TrainConfig(model=str(tmp_path / "head"))).shape == policy.denoiser.config


@pytest.mark.parametrize("rank", [0, 32])
def test_what_is_on_disk(rank: int, tmp_path: Path) -> None:
    """But for settings and the names of tensors."""
    base = GOLDEN / "llada-tiny"
    config = TrainConfig(
        model=str(base),
        train="model",
        keep_checkpoints=3,
        lora=LoraConfig(rank=rank),
        load=LoadConfig(dtype="float32"),
        rollout=RolloutConfig(sampler="top_k:1", gen_length=8),
        optim=OptimConfig(learning_rate=1e-6),
    )
    planned = plan_of(config).disk
    policy = load_start(config, World())
    state = TrainState.begin(policy, config)
    assert state.optimizers.denoiser
    for parameter in policy.trainable().values():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizers.denoiser.step()
    for state.step in range(5):
        folder = save_checkpoint(tmp_path, state, config, config.keep_checkpoints, World())
    sizes = [file.stat().st_size for file in (*folder.glob("policy/*.safetensors"), folder / "optimizer.safetensors")]
    assert sizes[0] == pytest.approx(planned["policy"], rel=0.1)
    assert sum(sizes) == pytest.approx(planned["checkpoint"], rel=0.1)
    assert len(list(tmp_path.iterdir())) == 3 and planned["checkpoints"] == 4 * planned["checkpoint"]
    assert planned["export"] == pytest.approx((base / "model.safetensors").stat().st_size, rel=0.1)


def test_known_models_need_no_network() -> None:
    for name in PUBLISHED:
        config = replace(CONFIG, model=name)
        assert make_model(config, find_start(config)).in_blocks > 0
    weights = plan_of().phases[0].parts["weights"]
    assert weights == 16_031_162_368  # the safetensors of LLaDA-8B-Instruct, as they are published


@pytest.mark.parametrize(
    ("sampler", "calls", "exact"),
    [("steps:128", 128, True), ("top_k:3", 88, True), ("random:2", 128, True), ("learned", 128, False)],
)
def test_denoiser_calls_follow_from_the_rule(sampler: str, calls: float, exact: bool) -> None:
    assert expected_nfe(sampler, 256, 32) == (calls, exact)


def test_a_last_block_that_is_shorter_takes_fewer_calls() -> None:
    assert expected_nfe("top_k:2", 10, 4) == (2 + 2 + 1, True)


def test_latents_share_a_group() -> None:
    """16 prompts x 8 rows at mu = 4: a latent a row, and z_0 for each group, however many go through at once."""
    for tokens in (1, 456, 4104, 10**6):
        optim = replace(CONFIG.optim, micro_batch_tokens=tokens)
        assert plan_of(replace(CONFIG, optim=optim)).phases[1].forwards == 4 * (128 + 16)
    masked = replace(CONFIG, objective=replace(CONFIG.objective, surrogate="mean_field:2,prompt_mask_prob=0.1"))
    assert plan_of(masked).phases[1].forwards == 4 * 256


def test_phases_are_those_of_the_recipe() -> None:
    def names(config: TrainConfig) -> list[str]:
        return [phase.name for phase in plan_of(config).phases]

    every = ["rollouts", "old log-probs", "reference log-probs", "update", "optimiser"]
    assert names(CONFIG) == every
    assert names(replace(CONFIG, objective=ObjectiveConfig())) == [name for name in every if "reference" not in name]
    assert names(SAMPLER) == ["rollouts"]


@pytest.mark.parametrize(("cache", "refresh"), [("dual", 0), ("dual", 3), ("prefix", 0), ("prefix", 2)])
def test_what_an_approximate_cache_keeps_and_saves(cache: str, refresh: int) -> None:
    """The keys of all slots; and of a row in each call the tokens that the engine computes."""
    rollout = replace(CONFIG.rollout, sampler="steps:128")
    kept = replace(rollout, cache=cache, cache_refresh=refresh)
    without, cached = (plan_of(replace(CONFIG, train="model", rollout=r)).phases[0] for r in (rollout, kept))
    keys = 2 * 2 * 64 * (200 + 256) * 32 * 4096  # keys and values in bf16
    assert cached.bytes - without.bytes == pytest.approx(1.1 * keys, rel=0.05)  # a tenth of room

    policy, seen = tiny_policy(), list[int]()
    policy.denoiser.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    prompts = ["".join(str(number // 7**place % 7) for place in range(5)) for number in range(48)]  # they share no call
    asked = [
        request(prompt, key, "steps:12", 24, block_length=8, cache=cache, refresh_every=refresh, early_exit=False)
        for key, prompt in enumerate(prompts)
    ]
    generate(policy, asked)
    step = rl_step(
        replace(CONFIG, train="model", rollout=replace(kept, sampler="steps:12", gen_length=24, block_length=8)),
        make_model(CONFIG, find_start(CONFIG)),
        Cluster(find_gpu("h100"), prompt_length=5),
    )[0]
    assert sum(seen) == pytest.approx(len(asked) * 12 * step.call_length)


@pytest.mark.parametrize("kind", ["prompt", "state", "bernoulli"])
def test_what_a_head_remembers_is_what_its_slots_hold(kind: str) -> None:
    threshold = ThresholdConfig() if kind == "bernoulli" else ThresholdConfig(level=kind)
    head = "bernoulli" if kind == "bernoulli" else "threshold"
    planned = plan_of(replace(CONFIG, sampler_head=head, threshold=threshold)).phases[0].parts
    fixed = replace(CONFIG, rollout=replace(CONFIG.rollout, sampler="top_k:1"), train="model")
    without = plan_of(fixed).phases[0].parts
    policy = tiny_policy(learned=kind)
    slots = Slots.empty(policy, 64, Room(8, 256, decisions=1 if kind == "prompt" else 256, window=32))
    held = 0 if kind == "prompt" else slots.features.nbytes + (slots.actions.nbytes if kind == "bernoulli" else 0)
    scale = 4096 / 16 if kind == "state" else 1  # the widths of the planned and of the tiny model
    assert sum(planned.values()) - sum(without.values()) == pytest.approx(
        1.1 * held * scale, rel=0.05
    )  # a tenth of room


def test_gpus_share_the_work_and_fsdp_the_weights() -> None:
    one, eight = plan_of(), plan_of(cluster=replace(H100, num_gpus=8))
    sharded = plan_of(cluster=replace(H100, num_gpus=8, shards=True))
    assert eight.seconds == pytest.approx(one.seconds / 8, rel=0.01)
    assert eight.phases[0].parts["weights"] == one.phases[0].parts["weights"]
    assert sharded.peak.name == "rollouts"  # which need all weights
    update, whole = sharded.phases[3], eight.phases[3]
    assert update.parts["weights"] < 0.25 * whole.parts["weights"] and update.bytes < whole.bytes
    assert update.parts["gradients"] == whole.parts["gradients"] / 8


def test_workers_hold_nothing_that_learns_and_decode_their_share() -> None:
    beside, alone = (plan_of(replace(CONFIG, rollout=replace(CONFIG.rollout, workers=n))) for n in (2, 0))
    rollouts, together = beside.phases[0], alone.phases[0]
    assert rollouts.bytes < together.bytes and rollouts.forwards > 0.9 * together.forwards
    assert rollouts.flops == pytest.approx(together.flops / 2, rel=0.02)
    assert not any(rollouts.parts[name] for name in ("gradients", "optimiser", "reference"))
    assert [phase.parts for phase in beside.phases[1:]] == [phase.parts for phase in alone.phases[1:]]
    assert "rollouts are those of a worker, of 2" in " ".join(beside.assumed)


def test_a_plan_says_that_it_counts_no_second_tries() -> None:
    hinted = plan_of(replace(CONFIG, rollout=replace(CONFIG.rollout, hints=0.6)))
    assert any("asked again with hints" in line for line in hinted.assumed)
    assert not any("hints" in line for line in plan_of().assumed)


def test_days_follow_from_the_assumptions() -> None:
    base = plan_of()
    assert base.days == pytest.approx(base.seconds * 100 / 86400)
    assert plan_of(cluster=replace(H100, mfu=0.175)).seconds == pytest.approx(2 * base.seconds, rel=0.01)
    rollouts = plan_of(cluster=replace(H100, nfe=64.0)).phases[0]
    assert rollouts.seconds == pytest.approx(base.phases[0].seconds / 2, rel=0.02)
    assert any("128 denoiser calls" in line and "learned" in line for line in base.assumed)


# --- suggestions ---------------------------------------------------------------------------------------------------


def test_what_fits_needs_no_change() -> None:
    fine = plan_of()
    assert fine.fits and changes(fine, find_start(CONFIG)) == ()


@pytest.mark.parametrize(
    ("config", "gpu", "wanted"),
    [
        (replace(CONFIG, optim=OptimConfig(micro_batch_tokens=65536)), "h100", ["optim.micro_batch_tokens = 8192"]),
        (
            replace(CONFIG, prompts_per_step=64, rollout=replace(CONFIG.rollout, num_slots=512)),
            "rtx-5090",
            ["rollout.num_slots = 128"],
        ),
        (replace(CONFIG, lora=LoraConfig()), "h100", ["lora.rank = 128"]),
        (CONFIG, "l4", ["load.four_bit = true"]),
        (CONFIG, "rtx-3090", ["optim.micro_batch_tokens = 2052", "rollout.num_slots = 16"]),
        (
            replace(CONFIG, optim=OptimConfig(micro_batch_tokens=456), objective=ObjectiveConfig()),
            "rtx-4090",
            ["optim.gradient_checkpointing = true", "rollout.num_slots = 32"],
        ),
    ],
)
def test_the_mildest_change_comes_first_and_holds(config: TrainConfig, gpu: str, wanted: list[str]) -> None:
    start, cluster = find_start(config), replace(H100, gpu=find_gpu(gpu))
    first = plan(config, start, cluster)
    suggested = changes(first, start)
    assert not first.fits and [change.what for change in suggested] == wanted
    assert suggested[-1].plan.fits and not any(change.plan.fits for change in suggested[:-1])


@pytest.mark.parametrize(
    ("model", "changed", "refused"),
    [
        (LLADA, {"rollout": replace(CONFIG.rollout, merge_adapters=True)}, "load.four_bit"),
        ("inclusionAI/LLaDA2.0-mini", {}, "load.four_bit"),
        (str(GOLDEN / "llada-tiny" / "lora"), {"lora": LoraConfig()}, "lora.rank"),
    ],
    ids=["adapters that are merged", "experts", "a model that carries adapters"],
)
def test_what_a_run_would_refuse_is_not_suggested(model: str, changed: dict[str, Any], refused: str) -> None:
    base = str(GOLDEN / "llada-tiny") if refused == "lora.rank" else None
    config = replace(CONFIG, model=model, load=LoadConfig(base=base), **changed)
    start = find_start(config)
    tried = [edit for rule in edits_by_rule(config, H100, start) for edit in rule]
    assert len(tried) > 3 and not any(refused in edit.knobs for edit in tried)
    with pytest.raises(ValueError, match="4-bit" if refused == "load.four_bit" else "carries adapters already"):
        load = replace(config.load, four_bit=refused == "load.four_bit")
        make_model(replace(config, lora=LoraConfig(rank=4), load=load), start)


def test_more_gpus_come_last() -> None:
    """All weights cannot learn in what one GPU has: adapters, or eight GPUs."""
    config = replace(CONFIG, lora=LoraConfig())
    start = find_start(config)
    assert not plan(config, start, H100).fits and not plan(config, start, replace(H100, num_gpus=8)).fits
    assert plan(config, start, replace(H100, num_gpus=8, shards=True)).fits
    assert [str(edit) for edit in edits_by_rule(config, H100)[-1]][2] == "8 GPUs, sharded (FSDP2)"
    assert not edits_by_rule(SAMPLER, H100)[-1]


def test_text_on_a_canvas_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "llada8b_gsm8k_diffpo", "--rollout.canvas", "so that {100}, {22}"])
    assert "125 tokens of canvas: 4 characters of rollout.canvas are one" in " ".join(capsys.readouterr().out.split())


def test_a_plan_is_one_line() -> None:
    found = plan_of()
    assert repr(found).startswith(f"Plan({CONFIG.model}: {found.peak.bytes / 2**30:.1f} of ")
    assert f"({found.peak.name}), {'fits' if found.fits else 'does not fit'}; " in repr(found)


def test_gpus_have_names() -> None:
    assert find_gpu("A100_40GB") is GPUS["a100-40gb"]
    with pytest.raises(ValueError, match=r"gpu 'h10'.*'h100'"):
        find_gpu("h10")
    assert roomy_gpu(100 * 2**30) == "h200" and roomy_gpu(1e15) is None


# --- the command ---------------------------------------------------------------------------------------------------

FLAGS = ["--model", LLADA, "--lora.rank", "128", "--rollout.gen-length", "256", "--rollout.block-length", "32"]


def test_the_command_prints_tables_and_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", *FLAGS, "--optim.micro-batch-tokens", "456"])
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("weights", "adapters", "activations", "context", "rollouts", "PFLOP"))
    assert shown.splitlines()[-1].startswith("fits: ") and "days for 500 steps" in shown
    main(["plan", *FLAGS, "--gpu", "l4"])
    assert "does not fit: " in capsys.readouterr().out.splitlines()[-1]


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", *FLAGS, "--gpu", "rtx-4090", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert not shown["fits"] and shown["changes"][-1]["fits"] and shown["phases"]["rollouts"]["bytes"] > 15e9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpu", "abacus"], "gpu 'abacus'"),
        (["--mfu", "2"], "mfu must lie in"),
        (["--nfe", "0"], "nfe must be >= 1"),
        (["--nfe", "300"], "nfe must be at most the canvas of 256 tokens, got 300"),
        (["--prompt-length", "4000"], "exceed the model's 4096"),
        (["--model", "runs/nowhere"], "no checkpoint here"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", *FLAGS, *arguments])
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_recipe_is_planned_as_it_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "llada8b_countdown_diffpo", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["model"] == LLADA and shown["fits"]
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("way", [["llada8b_sft"], ["--model", LLADA, "--data", "rows.jsonl"]])
def test_fine_tuning_is_planned_too(way: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    main(["plan", *way])
    shown = capsys.readouterr().out
    assert "336 M more learn" in shown and "a step: 8 rows of 200 + 256 tokens" in shown and "rollouts" not in shown
    assert "3.75 GiB each" in shown and "diffpo export --merge 14.9 GiB" in shown
    assert shown.splitlines()[-1].startswith("fits: ")
    main(["plan", *way, "--gpu", "rtx-4080", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert not shown["fits"] and shown["changes"][-1]["fits"] and shown["disk_bytes"]["policy"] == 4 * 335_544_320


def test_a_model_from_scratch_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "sudoku_tiny_pretrain"])
    shown = capsys.readouterr().out
    assert "fresh weights: " in shown and "a step: 128 rows of 17 + 16 tokens" in shown and "fits: " in shown


def test_losses_that_hold_every_completion_need_no_group_with_a_gradient() -> None:
    free = replace(CONFIG, objective=ObjectiveConfig())
    gdsd = replace(CONFIG, objective=ObjectiveConfig(surrogate="gdsd", loss="gdsd", importance_clamp=0))
    said = [any("every group has a gradient" in line for line in plan_of(c).assumed) for c in (free, CONFIG, gdsd)]
    assert said == [True, False, False]
