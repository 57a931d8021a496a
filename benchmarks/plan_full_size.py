"""Run the real code on tensors without data at the size of published models, and compare what it would hold with
what `diffpo plan` says. Needs a minute and no memory.

python benchmarks/plan_full_size.py

Every operator reports shapes alone (torch's FakeTensorMode), and a dispatch mode adds up the storages that are alive.
Two moments of a step: a denoiser call of the rollouts with its draws, and forward and backward pass of a micro-batch.
Attention is the CPU's flash attention, which keeps what the GPU's keeps. AdamW's moments are not made, nor counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from diffpo.config import LoraConfig, ObjectiveConfig, OptimConfig, RolloutConfig, TrainConfig
from diffpo.functional.prediction import Mode
from diffpo.lab.bench.measure import Alive
from diffpo.models.attention import Packing, Run
from diffpo.models.likelihood import score_tokens
from diffpo.models.policy import Policy
from diffpo.models.tokenizer import CharTokenizer
from diffpo.models.transformer import Transformer, TransformerConfig
from diffpo.planning.gpus import GPUS
from diffpo.planning.plan import Cluster, find_start, plan
from diffpo.rollout.call import predict_tokens

PROMPT_LENGTH, GEN_LENGTH, BLOCK_LENGTH = 200, 256, 32
LENGTH = PROMPT_LENGTH + GEN_LENGTH
GIB = 2**30


def recipe(model: str, rank: int, latents: int, checkpointing: bool, num_slots: int = 128) -> TrainConfig:
    """With so many latents in a micro-batch."""
    return TrainConfig(
        model=model,
        train="model",
        prompts_per_step=16,
        num_generations=8,
        lora=LoraConfig(rank=rank),
        rollout=RolloutConfig(sampler="top_k:2", gen_length=GEN_LENGTH, block_length=BLOCK_LENGTH, num_slots=num_slots),
        objective=ObjectiveConfig(num_iterations=1),
        optim=OptimConfig(micro_batch_tokens=latents * LENGTH, gradient_checkpointing=checkpointing),
    )


LLADA, DREAM = "GSAI-ML/LLaDA-8B-Instruct", "Dream-org/Dream-v0-Instruct-7B"
QWEN3 = "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1"
CASES = {
    "LLaDA, LoRA 128, a group at once, checkpointing": recipe(LLADA, 128, 9, True),
    "LLaDA, LoRA 128, 2 latents at once": recipe(LLADA, 128, 2, False, num_slots=32),
    "LLaDA, all weights, a group at once, checkpointing": recipe(LLADA, 0, 9, True),
    "Dream, LoRA 128, a group at once, checkpointing": recipe(DREAM, 128, 9, True),
    "Dream, all weights, 3 latents at once": recipe(DREAM, 0, 3, False, num_slots=64),
    "Qwen3-0.6B, LoRA 128, a group at once": recipe(QWEN3, 128, 9, False),
    "Qwen3-0.6B, all weights, a group at once": recipe(QWEN3, 0, 9, False),
    "Qwen3-0.6B, all weights, 3 latents at once, checkpointing": recipe(QWEN3, 0, 3, True),
}


class Ids(CharTokenizer):
    """A tokenizer without text."""

    def __init__(self, vocab_size: int) -> None:
        self.mask_id, self.eos_id, self.vocab_size = vocab_size - 1, vocab_size - 2, vocab_size


def make_policy(shape: TransformerConfig, config: TrainConfig) -> Policy:
    """The policy as `load_start` leaves it, on meta."""
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        denoiser = Transformer(shape)
    torch.set_default_dtype(torch.float32)
    policy = Policy(denoiser.eval(), Ids(shape.vocab_size))
    if config.lora.rank:
        policy.add_adapters(config.lora)
    else:
        policy.use_master_weights()
    denoiser.gradient_checkpointing = config.optim.gradient_checkpointing
    return policy


def without_data(policy: Policy) -> None:
    """Put tensors on a CPU without data in the place of those on meta; within FakeTensorMode."""
    for name, parameter in list(policy.denoiser.named_parameters()):
        path, _, leaf = name.rpartition(".")
        values = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
        module = policy.denoiser.get_submodule(path)
        setattr(module, leaf, nn.Parameter(values, requires_grad=parameter.requires_grad))
    policy.denoiser.initialize_buffers(torch.device("cpu"))
    policy.banned = torch.tensor([policy.mask_id])


def packed(rows: int, wanted: int) -> tuple[Tensor, Packing, Tensor]:
    """Token ids, their packing, and the `wanted` first tokens of each row's canvas."""
    place = torch.arange(rows * LENGTH)
    packing = Packing(place % LENGTH, torch.arange(rows) * LENGTH, (Run(rows, LENGTH, LENGTH, wanted),))
    canvas = torch.arange(rows)[:, None] * LENGTH + PROMPT_LENGTH + torch.arange(wanted)
    return torch.zeros_like(place), packing, canvas.flatten()


def call(policy: Policy, config: TrainConfig) -> None:
    """Two denoiser calls of the engine on full slots, the first of a block."""
    slots = config.rollout.num_slots
    ones, count = torch.ones(slots * BLOCK_LENGTH), slots * BLOCK_LENGTH
    hidden = torch.empty(0)
    with torch.no_grad():
        for _ in range(2):
            hidden = policy.denoiser(*packed(slots, BLOCK_LENGTH))
            predict_tokens(policy, hidden[torch.arange(count)], ones, ones, ones / 2, Mode("none", True, True, True))


def micro_batch(policy: Policy, config: TrainConfig) -> None:
    """Forward and backward pass of latents of one group: z_0, and those of some rows.

    Half of every row's tokens are scored at z_0, the other half at a latent of its own.
    """
    latents = config.optim.micro_batch_tokens // LENGTH
    positions = torch.arange((config.num_generations + latents - 1) * GEN_LENGTH // 2)
    hidden = policy.denoiser(*packed(latents, GEN_LENGTH))[positions % (latents * GEN_LENGTH)]
    score_tokens(policy, hidden, torch.zeros_like(positions), config.rollout.temperature).sum().backward()


def held(shape: TransformerConfig, config: TrainConfig, work: Callable[[Policy, TrainConfig], None]) -> int:
    """Bytes at the peak of `work`, weights and gradients of the update before included."""
    policy = make_policy(shape, config)
    with FakeTensorMode(allow_non_fake_inputs=True):
        without_data(policy)
        alive = Alive()
        for parameter in policy.denoiser.parameters():
            alive.add(parameter.data)
        for parameter in policy.trainable().values():
            parameter.grad = torch.zeros_like(parameter)
            alive.add(parameter.grad)
        with alive:
            work(policy, config)
    return alive.peak


def compare(case: str) -> dict[str, tuple[float, float]]:
    """Bytes held and planned by phase."""
    config = CASES[case]
    start = find_start(config)
    gpu = replace(GPUS["h100"], host=True)  # without context and slack
    phases = {phase.name: phase for phase in plan(config, start, Cluster(gpu, prompt_length=PROMPT_LENGTH)).phases}
    work = {"rollouts": call, "update": micro_batch}
    return {
        name: (held(start.shape, config, work[name]), phases[name].bytes - phases[name].parts["optimiser"])
        for name in work
    }


def main() -> None:
    print("| case | phase | held GiB | planned GiB | error |")
    print("| --- | --- | --- | --- | --- |")
    for case in CASES:
        for name, (took, planned) in compare(case).items():
            row = f"{took / GIB:.2f} | {planned / GIB:.2f} | {planned / took - 1:+.1%}"
            print(f"| {case} | {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
