"""The policy at the start of a run: the model that a config names, with the adapters and the head that it adds."""

from __future__ import annotations

from diffpo.config import TrainConfig
from diffpo.files.record import anchored_code
from diffpo.models.policy import Policy
from diffpo.processes.world import World
from diffpo.training.state import load_start

OWN_OF_HEAD = {
    "threshold": ("network", "level", "gamma_max", "gamma_init", "sigma", "bound"),
    "bernoulli": ("network", "width", "chance_init"),
}
"""Settings that a sampler head keeps for life."""


def start_policy(config: TrainConfig, world: World) -> Policy:
    """The policy at the start of a run, on the rank's device: config.model with what config adds to it."""
    policy = load_start(config, world, learns=config.train != "sampler")
    if config.rollout.sampler == "learned" and policy.sampler_head is None:
        policy.add_head(config.head, config.seed)
    elif config.rollout.sampler == "learned":
        _check_head(policy, config)
    return policy


def _check_head(policy: Policy, config: TrainConfig) -> None:
    """ValueError for a head that is asked for where the model brings one of its own, of another kind or shape."""
    head = policy.sampler_head
    assert head
    if head.kind != config.sampler_head:
        raise ValueError(
            f"sampler_head = {config.sampler_head}: {config.model} brings its own {head.kind} head: say {head.kind}"
        )
    for name in OWN_OF_HEAD[head.kind]:
        asked, own = getattr(config.head, name), getattr(head.config, name)
        asked = anchored_code(asked) if name == "network" else asked
        if asked not in (own, getattr(type(head.config), name)):
            raise ValueError(
                f"{head.kind}.{name} = {asked} does nothing: {config.model} brings its own {head.kind} head, with "
                f"{own}: leave it out"
            )
