"""Run real training steps on the CPU and compare the memory they take, phase by phase, with what `diffpo plan` says.

python benchmarks/plan_memory.py                 a 229 M parameter model, every case in processes of its own
python benchmarks/plan_memory.py --cases lora    one case
python benchmarks/plan_memory.py --small         the same of a model of 3 M parameters, memory alone: seconds a case

Memory is what torch's CPU allocator hands out (torch.profiler), tensors and the temporaries within operators alike. A
second process makes the same step without the profiler: how far its own peak (RSS, Linux) rises above what it had
before the model was built, with a malloc that gives back what is freed; and then torch counts the operations of a step.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from diffpo.config import LoadConfig, LoraConfig, ObjectiveConfig, OptimConfig, RolloutConfig, SftConfig, TrainConfig
from diffpo.functional.objective import group_advantages
from diffpo.models.experts import ExpertsConfig
from diffpo.models.families import FAMILIES
from diffpo.models.policy import Policy
from diffpo.models.quantization import pack, quantize_linears
from diffpo.models.tokenizer import CharTokenizer
from diffpo.models.transformer import Transformer, TransformerConfig
from diffpo.planning.gpus import Gpu
from diffpo.planning.plan import Cluster, Plan, Start, plan
from diffpo.processes.world import World
from diffpo.rollout.local import collect
from diffpo.training import sft
from diffpo.training.examples import Examples
from diffpo.training.sharding import gathered, shard
from diffpo.training.state import Optimizers, TrainState
from diffpo.training.update import prepare, update
from diffpo.types import Batch, Prompt, Verdict

CPU = Gpu("this CPU", memory=16, tflops=0.1, tflops_fp32=0.1, bandwidth=20, host=True)
PROMPT_LENGTH, SMALL_PROMPT = 64, 24
GROUP = 5 * (PROMPT_LENGTH + 128)
"""Tokens of a group of 4: z_0 and a latent a row."""
SHARDED = ", FSDP2 on two ranks"
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
SMALL = TransformerConfig(3000, hidden_size=192, num_layers=5, num_heads=6, num_kv_heads=6, mlp_size=576)
SHAPE = TransformerConfig(32_000, hidden_size=1024, num_layers=12, num_heads=16, num_kv_heads=16, mlp_size=3072)
BASE = TrainConfig(
    train="model",
    prompts_per_step=2,
    num_generations=4,
    load=LoadConfig(dtype="bfloat16"),
    lora=LoraConfig(rank=64),
    rollout=RolloutConfig(sampler="top_k:32", gen_length=128, block_length=32, num_slots=8),
    objective=ObjectiveConfig(num_iterations=2),
    optim=OptimConfig(micro_batch_tokens=GROUP, warmup_steps=1),
)


SFT = SftConfig(
    model="any",
    data="rows",
    batch_size=8,
    gen_length=128,
    load=BASE.load,
    lora=BASE.lora,
    optim=replace(BASE.optim, micro_batch_tokens=4 * (PROMPT_LENGTH + 128)),
)


def change(config: TrainConfig, rank: int = 64, dtype: str = "bfloat16", **settings: object) -> TrainConfig:
    """`config` with other settings of its sections, by name."""
    sections = {name: getattr(config, name) for name in ("objective", "optim", "rollout")}
    for key, value in settings.items():
        name = next(name for name, section in sections.items() if key in vars(section))
        sections[name] = replace(sections[name], **{key: value})
    return replace(config, lora=LoraConfig(rank=rank), load=replace(config.load, dtype=dtype), **sections)


CASES: dict[str, TrainConfig | SftConfig] = {
    "lora": BASE,
    "lora, a latent at a time": change(BASE, micro_batch_tokens=1),
    "lora, all at once": change(BASE, micro_batch_tokens=2 * GROUP),
    "lora, checkpointing": change(BASE, gradient_checkpointing=True),
    "lora, checkpointing, all at once": change(BASE, gradient_checkpointing=True, micro_batch_tokens=2 * GROUP),
    "lora, fp32": change(BASE, dtype="float32"),
    "lora, KL, 1 latent, 4 slots": change(BASE, beta=0.04, surrogate="mean_field:1,prompt_mask_prob=0.15", num_slots=4),
    "lora, coupled": change(BASE, surrogate="coupled", importance_clamp=0, micro_batch_tokens=2 * GROUP),
    "lora, ELBO, 2 pairs": change(BASE, surrogate="elbo:2", importance_clamp=0, micro_batch_tokens=2 * GROUP),
    "lora, grouped queries": BASE,
    "lora, A2D": BASE,
    "lora, blocks": change(BASE, sampler="top_k:8"),
    "lora, experts": BASE,
    "lora, four bits": replace(BASE, load=LoadConfig(dtype="bfloat16", four_bit=True)),
    "full": change(BASE, rank=0),
    "full, checkpointing": change(BASE, rank=0, gradient_checkpointing=True),
    "full, a latent at a time": change(BASE, rank=0, micro_batch_tokens=1),
    "full, fp32": change(BASE, rank=0, dtype="float32"),
    "full, A2D": change(BASE, rank=0),
    "full, A2D, fp32, all at once": change(BASE, rank=0, dtype="float32", micro_batch_tokens=2 * GROUP),
    "full, fp32, checkpointing, all at once": change(
        BASE, rank=0, dtype="float32", gradient_checkpointing=True, micro_batch_tokens=2 * GROUP
    ),
    "full, experts": change(BASE, rank=0),
    "sft, lora": SFT,
    "sft, lora, checkpointing": replace(SFT, optim=replace(SFT.optim, gradient_checkpointing=True)),
    "sft, full": replace(SFT, lora=LoraConfig()),
    "sft, full, blocks": replace(SFT, lora=LoraConfig()),
    f"lora{SHARDED}": change(BASE, micro_batch_tokens=GROUP // 2),
    f"full{SHARDED}": change(BASE, rank=0, micro_batch_tokens=GROUP // 2),
    f"full, checkpointing{SHARDED}": change(BASE, rank=0, gradient_checkpointing=True),
    f"full, A2D{SHARDED}": change(BASE, rank=0, micro_batch_tokens=GROUP // 2),
}


class Ids(CharTokenizer):
    """A tokenizer without text: prompts of one length."""

    def __init__(self, vocab_size: int, prompt_length: int) -> None:
        self.mask_id, self.eos_id, self.vocab_size = vocab_size - 1, vocab_size - 2, vocab_size
        self.prompt_length = prompt_length

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple((int(text) + position) % (self.vocab_size - 2) for position in range(self.prompt_length))

    def decode(self, ids: Iterable[int]) -> str:
        return str(next(iter(ids)))


class Parity:
    """A task: an answer is right if its first token is odd."""

    name, gen_length, rewards = "parity", 128, None

    def prompts(self, split: str, num: int, start: int = 0) -> list[Prompt]:
        return [Prompt(str(index), str(index)) for index in range(start, start + num)]

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        # of many values, so that hardly a row is at its group's mean and left out
        return Verdict(int(completion) % 2 == 1, int(completion) % 997 / 997, {})


def make_policy(shape: TransformerConfig, config: TrainConfig | SftConfig, prompt_length: int) -> Policy:
    """Random weights, and what `load_start` makes of weights."""
    denoiser = Transformer(shape)
    denoiser.initialize(torch.Generator().manual_seed(0))
    denoiser.to(torch.bfloat16 if config.load.dtype == "bfloat16" else torch.float32)
    if config.load.four_bit:
        weights = {name: parameter.detach() for name, parameter in denoiser.blocks.named_parameters()}
        quantize_linears(denoiser)
        for name, weight in weights.items():
            path, _, leaf = name.rpartition(".")
            if weight.ndim == 2:
                setattr(denoiser.blocks.get_submodule(path), leaf, pack(weight))
    denoiser.initialize_buffers()
    policy = Policy(denoiser.eval(), Ids(shape.vocab_size, prompt_length))
    if config.lora.rank:
        policy.add_adapters(config.lora)
    else:
        policy.use_master_weights()
    denoiser.gradient_checkpointing = config.optim.gradient_checkpointing
    return policy


def make_state(
    shape: TransformerConfig, config: TrainConfig | SftConfig, prompt_length: int, world: World
) -> TrainState:
    """A run under way: moments and the last update's gradients are there."""
    policy = make_policy(shape, config, prompt_length)
    shard(world, policy.denoiser)
    state = TrainState(policy, Optimizers.create(policy, config))
    assert state.optimizers.denoiser
    for parameter in policy.trainable().values():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizers.denoiser.step()
    if isinstance(config, TrainConfig) and config.objective.beta:
        state.start = {name: parameter.detach().clone() for name, parameter in policy.trainable().items()}
    return state


@contextmanager
def _recorded(name: str) -> Iterator[None]:
    with record_function(f"phase: {name}"):
        yield


def train_step(state: TrainState, config: TrainConfig, world: World, phase: Callable[[str], Any] = _recorded) -> None:
    """One step as the loop makes it, each phase within `phase(name)`."""
    task, policy = Parity(), state.policy
    with phase("rollouts"), gathered(world, policy.denoiser):
        share = world.share(config.prompts_per_step)
        prompts = task.prompts("train", len(share), share.start)
        groups = collect(policy, task, prompts, config.num_generations, config.rollout, seed=0)
    groups = world.gather(groups)
    rewards = torch.tensor([[rollout.reward for rollout in group.rollouts] for group in groups])
    batch = Batch.from_groups(groups, group_advantages(rewards).flatten())
    with phase("old log-probs"):
        state.experience, state.iteration = prepare(state, batch, config, world), 0
    for _ in range(config.objective.num_iterations):
        with phase("update"):
            update(state, config, world)


def sft_step(state: TrainState, config: SftConfig, world: World, phase: Callable[[str], Any] = _recorded) -> None:
    """One step of fine-tuning on as many rows as a batch has."""
    rows, prompt, canvas = config.batch_size, len(state.policy.tokenizer.encode("0")), config.gen_length or 0
    ids = torch.arange(rows * (prompt + canvas)).view(rows, -1) % (state.policy.mask_id - 1)
    lengths = torch.full((rows,), prompt), torch.full((rows,), canvas)
    examples = Examples(ids[:, :prompt], lengths[0], ids[:, prompt:], lengths[1])
    with phase("update"):
        sft.sft_update(state, examples, config, world)


def make_step(
    state: TrainState, config: TrainConfig | SftConfig, world: World, phase: Callable[[str], Any] = _recorded
) -> None:
    if isinstance(config, TrainConfig):
        train_step(state, config, world, phase)
    else:
        sft_step(state, config, world, phase)


def measure(
    shape: TransformerConfig, config: TrainConfig | SftConfig, prompt_length: int = PROMPT_LENGTH
) -> dict[str, float]:
    """Peak (bytes) of each phase of a step in this process."""
    world = World.join("cpu")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        state = make_state(shape, config, prompt_length, world)
        make_step(state, config, world)
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events: list[Any] = profiler.profiler.kineto_results.events()
    marks = [event for event in events if event.name().startswith("phase: ")]
    spans = {event.name().removeprefix("phase: "): (event.start_ns(), event.end_ns()) for event in marks}
    steps = [event for event in events if event.name() == "Optimizer.step#AdamW.step"]
    step = max(steps, key=lambda event: event.start_ns())
    spans["optimiser"] = (step.start_ns(), step.end_ns())
    spans["update"] = (spans["update"][0], step.start_ns())
    peaks, held = dict.fromkeys(spans, 0.0), 0
    for at, size in sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"):
        held += size
        for name, (start, end) in spans.items():
            if start <= at <= end:
                peaks[name] = max(peaks[name], held)
    return peaks


def count(
    shape: TransformerConfig, config: TrainConfig | SftConfig, prompt_length: int = PROMPT_LENGTH
) -> dict[str, float]:
    """Floating-point operations of each phase, as torch counts them."""

    def attention(query: Any, key: Any, *rest: Any, out_shape: Any = None, **settings: Any) -> int:
        rows, heads, length, size = query
        return 4 * rows * heads * length * key[2] * size

    def attention_backward(gradient: Any, query: Any, key: Any, *rest: Any, **settings: Any) -> int:
        return 2 * attention(query, key)

    def added(sum: Any, left: Any, right: Any, *rest: Any, **settings: Any) -> int:
        return 2 * left[0] * left[1] * right[1]

    def grouped(left: Any, right: Any, *rest: Any, **settings: Any) -> int:
        return 2 * left[0] * left[1] * right[1]  # each row with one matrix; of the gradient each row with one row

    ops = torch.ops.aten
    mapping: dict[Any, Any] = {
        ops._scaled_dot_product_flash_attention_for_cpu: attention,
        ops._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
        ops.addmm_: added,
        torch.ops.diffpo.grouped: grouped,
        torch.ops.diffpo.grouped_weights: grouped,
    }
    flops: dict[str, float] = {}

    @contextmanager
    def counted(name: str) -> Iterator[None]:
        counter = FlopCounterMode(display=False, custom_mapping=mapping)
        with counter:
            yield
        flops[name] = flops.get(name, 0) + counter.get_total_flops()

    make_step(make_state(shape, config, prompt_length, World()), config, World(), counted)
    return flops


def rise(
    shape: TransformerConfig, config: TrainConfig | SftConfig, prompt_length: int = PROMPT_LENGTH
) -> dict[str, float]:
    """The rise of the process's own peak in a step (bytes)."""
    before = _status("VmRSS")
    state = make_state(shape, config, prompt_length, World())
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building the model
    make_step(state, config, World())
    return {"rss": _status("VmHWM") - before}


def _status(name: str) -> float:
    """A memory figure of this process, bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


def estimate(
    shape: TransformerConfig, config: TrainConfig | SftConfig, prompt_length: int = PROMPT_LENGTH, ranks: int = 1
) -> Plan:
    """What `diffpo plan` says of the same step."""
    start = Start(shape, FAMILIES["diffpo"], torch.bfloat16 if config.load.dtype == "bfloat16" else torch.float32)
    return plan(config, start, Cluster(CPU, ranks, ranks > 1, mfu=1.0, prompt_length=prompt_length))


def shape_of(case: str, shape: TransformerConfig = SHAPE) -> TransformerConfig:
    """`shape` with what a case says: blocks, grouped queries, or with these Qwen3's wide, normed heads, tied head; or
    LLaDA2's experts."""
    if "A2D" in case:
        return replace(shape, num_kv_heads=shape.num_heads // 2, head_dim=2 * shape.head_size, qk_norm=True, tied=True)
    if "experts" in case:
        mixture = ExpertsConfig(8, 2, shape.mlp_size // 4, shape.mlp_size // 4, dense_blocks=1, score="sigmoid")
        return replace(shape, experts=mixture, qkv_fused=True, qk_norm=True, rotary_share=0.5)
    if "blocks" in case:
        return replace(shape, block_length=32)
    return replace(shape, num_kv_heads=4) if "grouped" in case else shape


def small(case: str) -> tuple[TransformerConfig, TrainConfig | SftConfig]:
    """Shape and config of a case of the small model."""
    config = CASES[case]
    return shape_of(case, SMALL), replace(config, lora=LoraConfig(rank=8 if config.lora.rank else 0))


def run(job: str, case: str, *flags: str) -> dict[str, float]:
    """What `job` says of `case`, in a process of its own, or in two."""
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2"] if case.endswith(SHARDED) else []
    command = [sys.executable, *launch, str(Path(__file__)), "--job", job, case, *flags]
    environment = os.environ | MALLOC | {"ACCELERATE_USE_FSDP": str(bool(launch)), "FSDP_VERSION": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def small_line(case: str) -> str:
    """A row of the small model's table: MiB."""
    peaks, planned = run("measure", case, "--small"), estimate(*small(case), SMALL_PROMPT).phases
    bytes_of = {phase.name: phase.bytes for phase in planned}
    cells = [
        f"{peaks[name] / 2**20:.1f} ({bytes_of[name] / peaks[name] - 1:+.1%})" if name in peaks else ""
        for name in ("rollouts", "old log-probs", "update", "optimiser")
    ]
    return f"| {case} | {' | '.join(cells)} |"


def line(case: str) -> str:
    """A row of the table."""
    sharded, peaks = case.endswith(SHARDED), run("measure", case)
    phases = {phase.name: phase for phase in estimate(shape_of(case), CASES[case], ranks=1 + sharded).phases}
    cells = [
        f"{peaks[name] / 2**30:.3f} ({phases[name].bytes / peaks[name] - 1:+.1%})" if name in peaks else ""
        for name in ("rollouts", "old log-probs", "update", "optimiser")
    ]
    if sharded:
        return f"| {case} | {' | '.join(cells)} | | |"
    counts = run("count", case)
    cells.append(f"{run('rise', case)['rss'] / 2**30:.3f}")
    flops = {name: phases[name].flops for name in ("rollouts", "old log-probs", "update") if name in phases}
    if "reference log-probs" in phases:
        flops["old log-probs"] += phases["reference log-probs"].flops  # made in one go, and measured as one
    errors = (f"{planned / counts[name] - 1:+.1%}" for name, planned in flops.items())
    cells.append("" if CASES[case].load.four_bit else ", ".join(errors))
    return f"| {case} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=[], help=f"of: {'; '.join(CASES)}")
    parser.add_argument("--small", action="store_true", help="a model of 3 M parameters, in MiB")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        warnings.simplefilter("ignore")
        job, case = options.job
        subject = (*small(case), SMALL_PROMPT) if options.small else (shape_of(case), CASES[case], PROMPT_LENGTH)
        said = {"measure": measure, "count": count, "rise": rise}[job](*subject)
        if int(os.environ.get("RANK", 0)) == 0:
            print(json.dumps(said))
        return
    if strangers := set(options.cases) - CASES.keys():
        raise SystemExit(f"no such case: {', '.join(sorted(strangers))}")
    print("| case | rollouts | old log-probs | update | optimiser |", end="\n" if options.small else "")
    if not options.small:
        print(" rise of RSS | error of FLOPs |")
    print(f"|{' --- |' * (5 if options.small else 7)}", flush=True)
    for case in options.cases or CASES:
        print(small_line(case) if options.small else line(case), flush=True)


if __name__ == "__main__":
    main()
