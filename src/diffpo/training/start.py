"""The policy at the start of a run: the model that a config names, with the adapters and the head that it adds."""

from __future__ import annotations

from dataclasses import fields, replace

from diffpo.config import SftConfig, TrainConfig
from diffpo.config.rollout import LEARNING
from diffpo.files.record import anchored_code
from diffpo.files.shipped import check_rate
from diffpo.models.bernoulli import BernoulliHead
from diffpo.models.heads import check_head
from diffpo.models.policy import Policy, load_policy
from diffpo.models.threshold import ThresholdHead
from diffpo.models.weights import check_learns
from diffpo.processes.world import World


def start_policy(config: TrainConfig, world: World) -> Policy:
    """The policy at the start of a run, on the rank's device: config.model with what config adds to it."""
    policy = load_start(config, world, learns=config.train != "sampler")
    if config.rollout.sampler == "learned":
        if policy.sampler_head:
            _check_head(policy.sampler_head, config)
        else:
            policy.add_head(config.head, config.seed)
            assert policy.sampler_head
            check_head(policy.sampler_head)
    return policy


def load_start(config: TrainConfig | SftConfig, world: World, learns: bool = True) -> Policy:
    """config.model on the rank's device with what config adds to its denoiser; `learns` False freezes that."""
    if learns:
        check_rate(config)
    policy = load_policy(config.model, **vars(replace(config.load, device=str(world.device))))
    make_ready(policy, config, learns)
    return policy


def make_ready(policy: Policy, config: TrainConfig | SftConfig, learns: bool) -> None:
    """Adapters, else master weights, for a denoiser that `learns`; its activations kept or made again."""
    if learns:
        check_learns(policy.denoiser.head.weight.dtype)
    if config.lora.rank:
        policy.add_adapters(config.lora, config.seed)
    if not learns:
        policy.denoiser.requires_grad_(False)
    elif not policy.adapter:
        policy.use_master_weights()
    policy.denoiser.gradient_checkpointing = config.optim.gradient_checkpointing


def _check_head(head: ThresholdHead | BernoulliHead, config: TrainConfig) -> None:
    """ValueError for a head that is asked for where the model brings one of its own, of another kind or shape."""
    if head.kind != config.sampler_head:
        raise ValueError(
            f"sampler_head = {config.sampler_head}: {config.model} brings its own {head.kind} head: say {head.kind}"
        )
    for name in (field.name for field in fields(head.config) if field.name not in LEARNING):
        asked, own = getattr(config.head, name), getattr(head.config, name)
        asked = anchored_code(asked) if name == "network" else asked
        if asked not in (own, getattr(type(head.config), name)):
            raise ValueError(
                f"{head.kind}.{name} = {asked} does nothing: {config.model} brings its own {head.kind} head, with "
                f"{own}: leave it out"
            )
