import math

import pytest
import torch

from decoding.arms.arm import parse_arm
from decoding.formulas.sampling import Greedy, Sampler, Sampling, nucleus_threshold
from icl.errors import ConfigError
from icl.streams import StreamKey


def keys(count: int, seed: int = 0) -> list[StreamKey]:
    return [StreamKey(seed, f"q{i}") for i in range(count)]


def test_samples_follow_the_distribution() -> None:
    """20,000 draws of (.5, .25, .125, .125, 0): chi-square with 3 degrees of freedom is below 16.3 at p = .001."""
    chances = torch.tensor([0.5, 0.25, 0.125, 0.125, 0.0])
    count = 20_000
    tokens = Sampling().choose(chances.log().expand(count, -1), keys(count), 0)
    counts = torch.bincount(tokens, minlength=5).double()
    assert counts[4] == 0
    expected = chances[:4].double() * count
    assert float(((counts[:4] - expected) ** 2 / expected).sum()) < 16.3


def test_a_sample_depends_only_on_query_seed_and_step() -> None:
    scores = torch.randn(64, 50, generator=torch.Generator().manual_seed(1))
    whole = Sampling().choose(scores, keys(64), 3)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2))
    shuffled = Sampling().choose(scores[order], [keys(64)[i] for i in order.tolist()], 3)
    assert torch.equal(shuffled, whole[order])
    alone = [int(Sampling().choose(scores[i : i + 1], keys(64)[i : i + 1], 3)) for i in range(64)]
    assert alone == whole.tolist()
    assert Sampling().choose(scores, keys(64), 4).tolist() != whole.tolist()
    assert Sampling().choose(scores, keys(64, seed=1), 3).tolist() != whole.tolist()


def test_masked_tokens_are_never_sampled() -> None:
    scores = torch.zeros(2000, 6)
    scores[:, [0, 3, 5]] = -math.inf
    assert set(Sampling(temperature=5.0).choose(scores, keys(2000), 0).tolist()) == {1, 2, 4}


def test_temperature_divides_and_zero_is_the_best_token() -> None:
    scores = torch.tensor([[1.0, 2.0, 0.0]])
    cold = Sampling(temperature=0.5).distribution(scores)
    torch.testing.assert_close(cold, (2 * scores).softmax(-1))
    assert Sampling(temperature=0).choose(scores, keys(1), 0).tolist() == [1]
    assert Sampling(temperature=0).deterministic
    assert not Sampling().deterministic


CHANCES = torch.tensor([[0.4, 0.05, 0.3, 0.15, 0.1]])


@pytest.mark.parametrize(
    ("cut", "tokens"),
    [
        ({"top_k": 2}, [0, 2]),
        ({"top_k": 9}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.69}, [0, 2]),
        ({"top_p": 0.71}, [0, 2, 3]),
        ({"top_p": 0.1}, [0]),
        ({"top_p": 0.0}, [0]),
        ({"min_p": 0.3}, [0, 2, 3]),
        ({"min_p": 1.0}, [0]),
        ({"top_k": 3, "top_p": 0.8}, [0, 2]),  # .4 + .3 are .82 of what top-k left
        ({"top_p": 0.8, "temperature": 0.2}, [0]),  # the cuts act behind the temperature
    ],
)
def test_cuts_keep_the_best(cut: dict[str, float], tokens: list[int]) -> None:
    chances = Sampling(**cut).distribution(CHANCES.log())  # type: ignore[arg-type]
    assert chances.nonzero()[:, 1].tolist() == tokens
    assert float(chances.sum()) == pytest.approx(1)


def test_without_cuts_every_token_keeps_its_probability() -> None:
    """Float32 sums of probabilities reach 1 before the last token."""
    scores = torch.linspace(0, -30, 3000)[None]
    assert torch.equal(Sampling().distribution(scores), scores.softmax(-1))


def test_cuts_are_those_of_transformers() -> None:
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = 3 * torch.randn(20, 5000, generator=torch.Generator().manual_seed(0))
    theirs = scores
    for warper in (
        TemperatureLogitsWarper(1.5),
        TopKLogitsWarper(3000),
        TopPLogitsWarper(0.95),
        MinPLogitsWarper(0.01),
    ):
        theirs = warper(torch.zeros(20, 1, dtype=torch.long), theirs)
    ours = Sampling(temperature=1.5, top_k=3000, top_p=0.95, min_p=0.01).distribution(scores)
    torch.testing.assert_close(ours, theirs.softmax(-1), rtol=1e-4, atol=1e-7)


def test_a_nucleus_wider_than_the_first_guess_is_found() -> None:
    scores = 0.01 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    sizes = (Sampling(top_p=0.9).distribution(scores) > 0).sum(-1)
    assert ((sizes > 3500) & (sizes < 3650)).all()


def test_samplers_are_samplers() -> None:
    assert isinstance(Greedy(), Sampler)
    assert isinstance(Sampling(), Sampler)
    assert Greedy().choose(torch.tensor([[0.0, 2.0, 1.0]]), keys(1), 0).tolist() == [1]


@pytest.mark.parametrize("cold", [1e-300, 1e-40])
def test_a_temperature_that_float32_cannot_divide_by_is_the_best_token(cold: float) -> None:
    scores = torch.tensor([[0.0, 3.0, 1.0]])
    assert Sampling(temperature=cold).deterministic
    assert Sampling(temperature=cold).choose(scores, [StreamKey(0, "q")], 0).tolist() == [1]


@pytest.mark.parametrize(
    "node",
    [{"temperature": float("inf")}, {"temperature": float("nan")}, {"temperature": 1e4}, {"beams": 99_999}]
    + [{"beams": 2, "length_penalty": value} for value in (float("nan"), 1e308, -1e308)],
)
def test_sampling_parameters_without_finite_values_are_refused(node: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        parse_arm({"name": "greedy", "sampling": node}, "grid.decoding")


def test_a_probability_beyond_rounding_keeps_every_token() -> None:
    scores = torch.randn(200, 50, generator=torch.Generator().manual_seed(0))
    reached = scores.softmax(-1).sort(descending=True).values.cumsum(-1)[:, -1] >= 1
    assert not reached.all()
    assert torch.equal(nucleus_threshold(scores, 1.0)[~reached], scores.amin(-1, keepdim=True)[~reached])
