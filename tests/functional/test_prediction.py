"""Drawing and scoring tokens against torch's own distributions."""

from __future__ import annotations

import pytest
import torch
from helpers import chi_square_z, keys

from diffpo.functional.prediction import Mode, ban, invert_cdf, predict
from diffpo.functional.random import uniform

LARGEST_UNIFORM = 1 - 2.0**-24


def random_logits(rows: int, vocab: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(rows * vocab))


def draw(logits: torch.Tensor, temperature: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and their log-probabilities."""
    return predict(logits, temperature, torch.ones(len(logits)), uniforms)[:2]


def certainty(logits: torch.Tensor, temperature: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Entropies, largest probabilities and margins."""
    return predict(logits, torch.ones(len(logits)), temperature, torch.zeros(len(logits)))[2:]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_draws_follow_the_softmax(temperature: float) -> None:
    logits, count = random_logits(1, 9, 1.0).squeeze(0), 30_000
    tokens, _ = draw(logits.expand(count, 9), torch.full((count,), temperature), uniform(keys(count)))
    assert abs(chi_square_z(tokens.bincount(minlength=9), (logits / temperature).softmax(-1))) < 4


def test_a_draw_inverts_the_cumulative_distribution() -> None:
    probabilities = torch.tensor([0.25, 0.0, 0.5, 0.25])
    uniforms = torch.tensor([0.0, 0.2499, 0.2501, 0.7499, 0.7501, LARGEST_UNIFORM])
    tokens, _ = draw(probabilities.log().expand(6, 4), torch.ones(6), uniforms)
    assert tokens.tolist() == [0, 0, 2, 2, 3, 3]


def test_log_probabilities_are_those_of_the_distribution_drawn_from() -> None:
    logits, temperature = random_logits(50, 11), torch.linspace(0.1, 3, 50)
    tokens, logprobs = draw(logits, temperature, uniform(keys(50)))
    reference = torch.distributions.Categorical(logits=logits / temperature[:, None])
    torch.testing.assert_close(logprobs, reference.log_prob(tokens))


def test_temperature_zero_is_a_point_mass_on_the_argmax() -> None:
    logits = random_logits(20, 7)
    mixed = torch.tensor([0.0, 1.0]).repeat(10)
    tokens, logprobs = draw(logits, mixed, uniform(keys(20)))
    assert torch.equal(tokens[::2], logits.argmax(-1)[::2]) and not logprobs[::2].any()
    assert (logprobs[1::2] < 0).all()


@pytest.mark.parametrize("temperature", [0.0, 0.01, 1.0, 100.0])
@pytest.mark.parametrize("edge", [0.0, LARGEST_UNIFORM, 1.0])
def test_banned_ids_are_never_drawn(temperature: float, edge: float) -> None:
    """Whether they are the likeliest, the first or the last, and at both ends of the uniforms."""
    for banned in ([0, 6], [0, 1, 2], [4, 5, 6], [3], [0, 1, 2, 4, 5, 6]):
        logits = random_logits(200, 7, 10.0)
        logits[:, banned] += 50
        tokens, logprobs = draw(
            ban(logits, torch.tensor(banned)), torch.full((200,), temperature), torch.full((200,), edge)
        )
        assert not torch.isin(tokens, torch.tensor(banned)).any()
        assert logprobs.isfinite().all()


def test_a_banned_distribution_is_renormalised() -> None:
    logits = random_logits(5, 6)
    kept = [0, 2, 3, 5]
    scores = ban(logits.bfloat16(), torch.tensor([1, 4])).log_softmax(-1)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores[:, kept], logits.bfloat16().float()[:, kept].log_softmax(-1))


def test_certainty_is_entropy_largest_probability_and_margin() -> None:
    logits = ban(random_logits(40, 8), torch.tensor([7]))
    temperature = torch.linspace(0.05, 4, 40)
    entropy, largest, margin = certainty(logits, temperature)
    reference = torch.distributions.Categorical(logits=(logits / temperature[:, None])[:, :7])
    torch.testing.assert_close(entropy, reference.entropy(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(largest, reference.probs.amax(-1))
    ordered = reference.probs.sort(-1).values
    torch.testing.assert_close(margin, ordered[:, -1] - ordered[:, -2])
    assert (entropy >= 0).all()


def test_certainty_at_its_limits() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1000.0, 0.0, 0.0, -torch.inf]])
    entropy, largest, margin = certainty(logits, torch.ones(2))
    torch.testing.assert_close(entropy, torch.tensor([4.0, 1.0]).log())
    torch.testing.assert_close(largest, torch.tensor([0.25, 1.0]))
    torch.testing.assert_close(margin, torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("vocab", [7, 97, 256, 480, 4096, 8192])
def test_segments_of_the_vocabulary_change_no_draw(vocab: int) -> None:
    """Against a running sum over the whole vocabulary in double precision."""
    probs = random_logits(400, vocab, 2.0).softmax(-1)
    probs[:, ::5] = 0
    lottery = uniform(keys(400))
    cdf = probs.double().cumsum(-1)
    target = lottery.double() * cdf[:, -1]
    tokens = invert_cdf(probs, lottery)
    assert (probs.gather(-1, tokens[:, None]) > 0).all()
    reach = cdf.gather(-1, tokens[:, None]).squeeze(-1)
    start = reach - probs.double().gather(-1, tokens[:, None]).squeeze(-1)
    assert (start - 1e-6 <= target).all() and (target <= reach + 1e-6).all()
    assert (tokens == torch.searchsorted(cdf, target[:, None], right=True).squeeze(-1)).float().mean() > 0.98


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("entropy_temperature", [0.6, 1.0])
def test_modes_save_work_and_change_no_bit(temperature: float, entropy_temperature: float) -> None:
    logits, lottery = random_logits(60, 512), uniform(keys(60))
    columns = torch.full((60,), temperature), torch.full((60,), entropy_temperature)
    mode = Mode(
        greedy="none" if temperature else "all",
        shared=temperature == entropy_temperature,
        plain=entropy_temperature == 1 and temperature in (0, 1),
        finite=True,
    )
    for ours, theirs in zip(
        predict(logits, *columns, lottery, mode=mode), predict(logits, *columns, lottery), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_an_answer_takes_the_place_of_what_is_drawn(temperature: float) -> None:
    logits, lottery = random_logits(60, 512), uniform(keys(60))
    columns = torch.full((60,), temperature), torch.ones(60), lottery
    told = torch.where(torch.arange(60) % 3 == 0, -1, torch.arange(60))
    drawn, free, *seen = predict(logits, *columns)
    tokens, logprobs, *again = predict(logits, *columns, told)
    assert torch.equal(tokens, torch.where(told < 0, drawn, told)) and torch.equal(logprobs[::3], free[::3])
    for row, token in enumerate(tokens.tolist()):  # log softmax(logits / temperature) of the token, in nats
        weights = (logits[row].double() / temperature).exp()
        assert float(logprobs[row]) == pytest.approx(float((weights[token] / weights.sum()).log()), abs=1e-5)
    assert all(map(torch.equal, seen, again))  # a rule sees the same
