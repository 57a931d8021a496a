"""What one GPU holds at the peak of each phase of a step, by part: closed forms, read off the code they stand for.

A value has s bytes in the residual stream and c in matrix products. docs/plan.md compares the sums with what a step
really takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from diffpo.models import fused
from diffpo.models.transformer import TransformerConfig
from diffpo.rollout import call, layout

Parts = Mapping[str, float]
"""Bytes by part."""

PARTS = {
    "weights": "as loaded, or fp32 masters where all of them learn",
    "adapters": "fp32",
    "gradients": "fp32",
    "optimiser": "two fp32 moments, and on a CPU copies of what AdamW works on",
    "reference": "the learning values at the start, for the KL term",
    "gathered": "weights that other GPUs have a share of, while they are needed (FSDP2)",
    "cast weights": "copies of fp32 weights in the dtype of matrix products, kept by autocast",
    "activations": "hidden states, and in the update what the backward pass needs",
    "logits": "and temporaries of their size",
    "context": "CUDA, its libraries and their workspaces (assumed)",
    "slack": "what the allocator cannot use, a share of what comes and goes (assumed)",
}
CONTEXT = 2**30
SLACK = 0.1


@dataclass(frozen=True)
class Model:
    """What is loaded, and what of it learns."""

    shape: TransformerConfig
    base: int
    """Bytes of a value of the weights as loaded."""
    learns: Literal["all", "adapters", "nothing"]
    rank: int = 0
    adapted: tuple[str, ...] = ()
    """Linears of a block that have an adapter."""
    four_bit: bool = False

    @property
    def stream(self) -> int:
        """Bytes of a value of the residual stream: it has the dtype of the embeddings."""
        return 4 if self.learns == "all" else self.base

    @property
    def casts(self) -> bool:
        """Whether autocast makes copies of fp32 weights."""
        return self.base < 4 and self.learns != "nothing"

    @property
    def in_linears(self) -> int:
        """Weights of the blocks' linears."""
        return self.shape.num_layers * self.in_block()

    @property
    def in_head(self) -> int:
        return self.shape.vocab_size * self.shape.hidden_size

    @property
    def in_blocks(self) -> int:
        shape = self.shape
        biases = shape.query_size + 2 * shape.kv_size if shape.qkv_bias else 0
        norms = 2 * shape.hidden_size + (2 * shape.head_size if shape.qk_norm else 0)
        return self.in_linears + shape.num_layers * (norms + biases)

    @property
    def in_root(self) -> int:
        """Embeddings, unless they are the head's, and the final norm."""
        shape = self.shape
        places = shape.max_length * shape.hidden_size if shape.learned_positions else 0
        return (0 if shape.tied else self.in_head) + places + shape.hidden_size

    @property
    def in_adapters(self) -> int:
        return self.shape.num_layers * self.in_block(adapters=True)

    def in_block(self, *names: str, adapters: bool = False) -> int:
        """Weights of the named linears of a block, or of their adapters; of all unless named."""
        sizes = linears(self.shape)
        if adapters:
            return self.rank * sum(sum(sizes[name]) for name in names or sizes if name in self.adapted)
        return sum(sizes[name][0] * sizes[name][1] for name in names or sizes)

    @property
    def learning(self) -> int:
        """Parameters that learn."""
        return {"all": self.in_blocks + self.in_root + self.in_head, "adapters": self.in_adapters, "nothing": 0}[
            self.learns
        ]


def linears(shape: TransformerConfig) -> dict[str, tuple[int, int]]:
    """The linears of a block by name: inputs and outputs."""
    wide, queries, keys, mlp = shape.hidden_size, shape.query_size, shape.kv_size, shape.mlp_size
    return {
        "attn.q_proj": (wide, queries),
        "attn.k_proj": (wide, keys),
        "attn.v_proj": (wide, keys),
        "attn.o_proj": (queries, wide),
        "gate_proj": (wide, mlp),
        "up_proj": (wide, mlp),
        "down_proj": (mlp, wide),
    }


@dataclass(frozen=True)
class Load:
    """What one GPU works on at once."""

    decoded: int
    """Tokens of a denoiser call in the rollouts."""
    candidates: int
    """Positions of it that logits are made of."""
    tokens: int
    """Tokens of a micro-batch: all its latents with their prompts."""
    canvas: int
    """Positions of it whose final hidden states are made: the canvases of its latents."""
    scored: int
    """Positions of it that logits are made of."""
    micro_batches: int
    """Micro-batches of an update."""
    checkpointing: bool
    reference: bool
    """Whether a KL term refers to the start of the run."""
    shards: int = 1
    """GPUs that what learns is sharded over; 1: each has all of it."""
    host: bool = False
    one_temperature: bool = True
    """Whether tokens are drawn at the temperature of the entropies."""
    remembered: float = 0
    """Values of 4 bytes that the slots keep for the sampler head."""
    cached: int = 0
    """Tokens whose keys and values are kept between calls."""

    def predicted(self, vocab_size: int) -> int:
        """Positions whose logits the engine holds at once."""
        return min(self.candidates, max(layout.MIN_ROWS, call.MAX_LOGITS[self._device] // vocab_size))

    def chunk(self, vocab_size: int) -> int:
        """Positions whose logits a log-probability holds at once."""
        return min(self.scored, max(1, fused.MAX_LOGITS[self._device] // vocab_size))

    @property
    def _device(self) -> str:
        return "cpu" if self.host else "cuda"


def resident(model: Model, load: Load) -> dict[str, float]:
    """What stands in memory all the time; the head stays whole, and gradients stay until the next update."""
    base = 4 if model.learns == "all" else model.base
    # nf4: half a byte, a byte of scale for 64 values, and four for 256 scales
    in_linears = model.in_linears * (0.5 + 1 / 64 + 4 / (64 * 256)) if model.four_bit else model.in_linears * base
    outside = (model.in_blocks - model.in_linears + model.in_root) * base
    whole_head = model.in_head if model.learns == "all" else 0
    learning = 4 * ((model.learning - whole_head) / load.shards + whole_head)
    return {
        "weights": (in_linears + outside) / load.shards + model.in_head * base,
        "adapters": 4 * model.in_adapters / load.shards,
        "gradients": learning,
        "optimiser": 2 * learning,
        "reference": learning if load.reference else 0,
    }


def rollout(model: Model, load: Load) -> Parts:
    """The engine: the forward pass of one call, or the logits after it."""
    fixed = resident(model, load) | {"gathered": _all_gathered(model, load)}
    shape, stream = model.shape, model.stream * model.shape.hidden_size
    # fp32: logits, their log-softmax, its exponential and the product of the two; where draws have a temperature of
    # their own, scaled logits and their log-softmax beside the first three
    logits = (16 if load.one_temperature else 20) * load.predicted(shape.vocab_size) * shape.vocab_size
    # the hidden states of the call before are let go only when those of this one are there
    kept = load.candidates * stream + 4 * load.remembered
    kept += 2 * model.base * load.cached * shape.num_layers * shape.kv_size
    return _largest(
        fixed | _casts(model) | {"activations": forward_bytes(model) * load.decoded + kept + _unpacked(model)},
        # the canvas's hidden states, and those of the candidates among them
        fixed | {"activations": kept + load.candidates * stream, "logits": logits, "cast weights": _cast_head(model)},
        load=load,
    )


def scoring(model: Model, load: Load) -> Parts:
    """Old or reference log-probs of a micro-batch, without gradients."""
    fixed = resident(model, load) | {"gathered": _all_gathered(model, load)}
    shape, stream = model.shape, model.stream * model.shape.hidden_size
    # fp32: logits and their log-softmax
    logits = 8 * load.chunk(shape.vocab_size) * shape.vocab_size
    return _largest(
        fixed | _casts(model) | {"activations": forward_bytes(model) * load.tokens + _unpacked(model)},
        fixed | {"activations": stream * load.scored, "logits": logits, "cast weights": _cast_head(model)},
        load=load,
    )


def backward(model: Model, load: Load) -> Parts:
    """Forward and backward pass of a micro-batch."""
    shape, tokens, canvas, all_learn = model.shape, load.tokens, load.canvas, model.learns == "all"
    layers, wide, stream = shape.num_layers, shape.hidden_size, model.stream * shape.hidden_size
    fixed = resident(model, load) | {"gathered": _few_gathered(model, load)}
    fresh = fixed | ({"gradients": 0} if load.micro_batches == 1 else {})  # nothing is there to be added to yet
    casts = _casts(model)["cast weights"]
    kept_casts, block_casts = (0 if load.checkpointing else casts), casts / layers

    # all keep RoPE's angles; the final norm its input in fp32, and itself before the weight where that learns
    angles = tokens * 4 * shape.head_size
    outside = angles + canvas * (4 * wide + (stream if all_learn else 0))
    inputs, block, last = tokens * stream, tokens * saved_bytes(model), saved_bytes_last(model, tokens, canvas)
    held = outside + (layers * inputs if load.checkpointing else (layers - 1) * block + last)
    # SwiGLU's backward: gradients of its three products beside what was kept, less the one that is used up;
    # and the gradient of the stream, twice
    moving = 2 * model.base * shape.mlp_size + 2 * stream
    again = last if load.checkpointing else 0

    head_gradient = 4 * model.in_head if all_learn else 0
    # that of a tied head waits for the embeddings' before it comes to .grad
    waits = head_gradient if shape.tied else 0
    return _largest(
        # the forward pass under checkpointing, at its last whole block
        fresh | {"activations": angles + layers * inputs + tokens * forward_bytes(model), "cast weights": casts},
        *_at_the_head(model, load, fresh, held + canvas * stream, kept_casts),
        # the final norm: five fp32 temporaries, beside the gradient of the stream
        fresh
        | {
            "activations": held + canvas * (20 * wide + stream),
            "gradients": max(fresh["gradients"] + waits, head_gradient),
            "cast weights": kept_casts,
        },
        # the last block, the first to go backwards
        fresh
        | {
            "activations": held + again + canvas * moving + _unpacked(model),
            "gradients": max(fresh["gradients"] + waits, head_gradient),
            "cast weights": kept_casts or block_casts,
        },
        # the block before it, whole
        fresh
        | {
            "activations": held
            - (0 if load.checkpointing else last)
            + (block if load.checkpointing else 0)
            + tokens * moving
            + _unpacked(model),
            "gradients": max(fresh["gradients"] + waits, head_gradient),
            "cast weights": kept_casts or block_casts,
        },
        # the first block, the last to go backwards: all gradients are there but the embeddings', the last
        fixed
        | {
            "activations": outside + inputs + block + tokens * moving + _unpacked(model),
            "gradients": fixed["gradients"] - (head_gradient if load.micro_batches == 1 else 0) + waits,
            "cast weights": block_casts,
        },
        # the gradient of the embeddings, dense; its sum with a tied head's is a third
        fixed | {"gradients": fixed["gradients"] + (head_gradient if load.micro_batches > 1 else 0) + 2 * waits},
        load=load,
    )


def _at_the_head(
    model: Model, load: Load, fresh: dict[str, float], held: float, kept_casts: float
) -> Iterator[dict[str, float]]:
    """Log-probs of a micro-batch and their gradient, beside `held` bytes of activations."""
    all_learn, wide, vocab = model.learns == "all", model.shape.hidden_size, model.shape.vocab_size
    stream, casts = model.stream * wide, kept_casts + _cast_head(model)
    chunk, head_gradient = load.chunk(vocab), 4 * model.in_head if all_learn else 0
    # hidden states looked up at the positions scored, and how log-probs change with them where the head stays
    held += load.scored * stream * (1 if all_learn else 2)
    # fp32: logits and their log-softmax
    yield fresh | {"activations": held, "logits": 8 * chunk * vocab, "cast weights": casts}
    # where the head learns log-probs are kept of a single chunk beside their slopes, or made again
    slopes = 4 + (model.base if model.base < 4 else 0)
    logits = (4 + slopes if chunk == load.scored else 8) * chunk * vocab if all_learn else 0
    yield fresh | {
        # the gradient of the hidden states, and that of the head in fp32 and before the cast
        "activations": held + load.scored * (4 * wide + stream),
        "logits": logits,
        "gradients": fresh["gradients"] + head_gradient + _cast_head(model),
        "cast weights": casts,
    }


def optimiser(model: Model, load: Load) -> Parts:
    """The step of AdamW."""
    fixed = resident(model, load)
    if load.shards > 1:
        fixed["gathered"] = model.in_root * (4 if model.learns == "all" else model.base)  # kept from the backward pass
    # on a GPU one kernel, in place; on a CPU parameter by parameter, with two copies
    largest = max(model.in_head, model.in_root) if model.learns == "all" else 0
    copy = 8 * largest if load.host else 0
    return _largest(fixed | {"optimiser": fixed["optimiser"] + copy}, load=load)


def forward_bytes(model: Model) -> int:
    """Bytes a token that a block's forward pass needs at its peak, input included, when nothing is kept of it."""
    shape, c = model.shape, model.base
    wide, queries, keys = shape.hidden_size, shape.query_size, shape.kv_size
    # SwiGLU: silu(gate), up and their product; with an adapter gate, up's base and its sum with the adapter's output.
    # Beside them the block's input, the stream after attention, and its norm
    mlp = 3 * c * shape.mlp_size + 3 * model.stream * wide
    # RoPE of the queries, or of the keys with rotated queries beside them, in fp32
    rotation = max(12 * queries, c * queries + 12 * keys) if c < 4 else max(8 * queries, c * queries + 8 * keys)
    attention = 2 * model.stream * wide + c * (queries + 2 * keys) + rotation
    return max(mlp, attention) + 6 * shape.head_size


def saved_bytes(model: Model) -> float:
    """Bytes a token that the backward pass of a block keeps."""
    return saved_bytes_last(model, 1, 1)


def saved_bytes_last(model: Model, tokens: int, asked: int) -> float:
    """Bytes that the backward pass keeps of a block that makes keys of `tokens`, and all else of those `asked` for."""
    shape, c, s = model.shape, model.base, model.stream
    wide, queries, keys, mlp = shape.hidden_size, shape.query_size, shape.kv_size, shape.mlp_size
    # a norm: the input in fp32, which is the stream itself where that is fp32; and its output, or where it learns that
    # before the weight as well, and a cast for each linear that reads it where they do not read fp32
    learns = model.learns == "all"
    first, second = (
        4 * wide + (s * wide if learns else 0) + (readers if learns and s > c else 1) * c * wide for readers in (3, 2)
    )
    # queries, output, its statistics, and the output once more in o_proj
    attention = 3 * c * queries + 4 * shape.num_heads
    # kernels that take a mask want a key for each query head
    repeated = 2 * c * (queries - keys) if shape.block_length else 0
    # the norm of heads: its input and its scale in fp32, and where it learns its output before the weight
    by_head = (4 + (c if learns else 0) + 4 / shape.head_size) if shape.qk_norm else 0
    swiglu = 4 * c * mlp  # gate, silu(gate), up, product
    adapters = c * model.rank * len(model.adapted)
    # a window's queries read a copy of the norm's output
    copies = c * wide if asked < tokens else 0
    of_tokens = first + (2 * c + by_head) * keys + repeated
    of_queries = attention + by_head * queries + second + swiglu + adapters + copies
    return tokens * of_tokens + asked * of_queries


def _casts(model: Model) -> dict[str, float]:
    """Copies that autocast keeps until the forward pass ends."""
    if not model.casts:
        return {"cast weights": 0}
    return {"cast weights": model.base * (model.in_linears if model.learns == "all" else model.in_adapters)}


def _cast_head(model: Model) -> float:
    return model.base * model.in_head if model.casts and model.learns == "all" else 0


def _unpacked(model: Model) -> float:
    """The largest weight in whole numbers of bytes, where it is packed in four bits."""
    return model.base * max(a * b for a, b in linears(model.shape).values()) if model.four_bit else 0


def _all_gathered(model: Model, load: Load) -> float:
    """All of a sharded model but the head, whole."""
    base = 4 if model.learns == "all" else model.base
    whole = (model.in_blocks + model.in_root) * base + 4 * model.in_adapters
    return whole if load.shards > 1 else 0


def _few_gathered(model: Model, load: Load) -> float:
    """The embeddings and two blocks, the one at work and the next, with gradients before they are scattered."""
    if load.shards == 1:
        return 0
    base = 4 if model.learns == "all" else model.base
    in_blocks = model.in_blocks * base + 4 * model.in_adapters
    gradients = 4 * (model.in_blocks if model.learns == "all" else model.in_adapters)
    return model.in_root * base + 2 * (in_blocks + gradients) / model.shape.num_layers


def _largest(*moments: dict[str, float], load: Load) -> Parts:
    """The moment at which most is held, with what the device adds."""
    parts = dict.fromkeys(PARTS, 0.0) | max(moments, key=lambda moment: sum(moment.values()))
    if not load.host:
        comes_and_goes = ("gathered", "cast weights", "activations", "logits")
        parts |= {"context": float(CONTEXT), "slack": SLACK * sum(parts[name] for name in comes_and_goes)}
    return parts
