"""Properties of every registered strategy beyond `check_strategy`. A new strategy is covered by its registration."""

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import pytest
import torch

from decoding.arms.arm import Arm
from decoding.arms.inspection import logits_count
from decoding.base import Strategy
from decoding.conformance import apply_mask, random_logits
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest, Failure
from decoding.formulas.sampling import Sampling
from decoding.strategies.vcd import VCD
from icl.registry import schema
from icl.streams import StreamKey
from icl.types import Generation
from tests.decoding.prompts import prompt
from tests.decoding.test_engine_all import TOKENS
from tests.decoding.test_strategies import ALL, made
from tests.decoding.toy import Row, Toy

SHARE = {"minimum": 0.0, "maximum": 1.0}


@cache
def schemas() -> list[dict[str, Any]]:
    return list(schema("strategy")["anyOf"])


def parameters(name: str) -> dict[str, Any]:
    """key -> its JSON schema."""
    (one,) = (o for o in schemas() if o.get("properties", {}).get("name") == {"const": name})
    return dict(one["properties"])


def is_share(schema: dict[str, Any]) -> bool:
    return {key: schema.get(key) for key in SHARE} == SHARE


MASKED = [name for name in ALL if is_share(parameters(name).get("beta", {}))]


def test_there_are_strategies_with_a_plausibility_mask() -> None:
    names = "vcd icd m3id ced pai ritual vdd dola contrast crops residual resdec sid avisc ascd cicd only"
    assert set(names.split()) == set(MASKED)


@pytest.mark.parametrize("name", MASKED)
def test_beta_zero_masks_nothing_and_beta_one_leaves_the_references_best_token(name: str) -> None:
    logits = random_logits(logits_count(made(name)))
    logits[0, 1, 5] = logits[0, 1].max()  # a tie, which stays
    best = logits[0] == logits[0].amax(-1, keepdim=True)
    for beta, expected in ((0.0, torch.ones_like(best)), (1.0, best)):
        strategy = replace(made(name), beta=beta)  # type: ignore[type-var, call-arg]
        scores = apply_mask(strategy, strategy.combine(logits, 3), logits[0])
        assert torch.equal(scores > -torch.inf, expected)


def test_at_beta_1_a_contrast_is_greedy() -> None:
    model = Toy(stop_bias=0.5)
    questions = [prompt(i, shots=i % 3) for i in range(6)]
    plain = run_requests(model, [DecodingRequest(p, Arm(made("greedy")), max_new_tokens=5) for p in questions])
    for name in MASKED:
        arm = Arm(replace(made(name), beta=1.0), Sampling(2.0))  # type: ignore[type-var, call-arg]
        answers = run_requests(model, [DecodingRequest(p, arm, max_new_tokens=5) for p in questions])
        assert [a.tokens for a in answers if isinstance(a, Generation)] == [
            a.tokens for a in plain if isinstance(a, Generation)
        ]


class Half(Toy):
    """A model with bfloat16 logits."""

    def logits_of(self, rows: list[Row]) -> torch.Tensor:  # type: ignore[override]
        return super().logits_of(rows).bfloat16()

    def exits_of(self, rows: list[Row]) -> torch.Tensor:  # type: ignore[override]
        return super().exits_of(rows).bfloat16()


@pytest.mark.parametrize("name", TOKENS)
def test_half_precision_logits_are_combined_in_float32_by_every_strategy(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy, dtypes = made(name), list[torch.dtype]()
    combine_stateful = type(strategy).combine_stateful

    def spied(self: Strategy, logits: torch.Tensor, *rest: Any) -> torch.Tensor:
        scores = combine_stateful(self, logits, *rest)
        dtypes.extend((logits.dtype, scores.dtype))
        return scores

    monkeypatch.setattr(type(strategy), "combine_stateful", spied)
    options = ("w1", "w2 w3", "w4 w5 w6")
    requests = [
        DecodingRequest(prompt(1), Arm(strategy), max_new_tokens=3),
        DecodingRequest(prompt(1), Arm(strategy), options, "options"),
    ]
    answers = run_requests(Half(), requests)
    assert all(isinstance(answer, Generation) for answer in answers), answers
    assert set(dtypes) == {torch.float32}


@pytest.mark.parametrize("name", TOKENS)
def test_an_answer_depends_only_on_its_query(name: str) -> None:
    """Batch and order do not matter; another seed changes the samples of its own query only."""
    model, strategy = Toy(stop_bias=0.5), made(name)
    arm = Arm(strategy, Sampling(1.2) if strategy.traits.num_samples == 1 else strategy.sampler)
    questions = [prompt(i, shots=i % 3) for i in range(5)]
    requests = [DecodingRequest(p, arm, max_new_tokens=4) for p in questions]
    answers = run_requests(model, requests)
    assert run_requests(model, requests[::-1])[::-1] == answers
    assert run_requests(model, requests[2:4]) == answers[2:4]
    moved = [
        replace(request, prompt=replace(request.prompt, key=StreamKey(7, request.prompt.key.query)))
        for request in requests[:1]
    ]
    assert run_requests(model, [*moved, *requests[1:]])[1:] == answers[1:]


@pytest.mark.parametrize("name", TOKENS)
def test_option_scoring_leaves_the_rows_of_the_loop_unchanged(name: str) -> None:
    """Option scoring and generation in one batch use the same rows and do not affect each other."""
    model, arm = Toy(stop_bias=-9.0), Arm(made(name), Sampling(0.0))
    written, ranked = (
        [DecodingRequest(prompt(i), arm, max_new_tokens=4) for i in range(3)],
        [DecodingRequest(prompt(i), arm, ("w1", "w2 w3"), "options") for i in range(3)],
    )
    assert run_requests(model, [*written, *ranked]) == [*run_requests(model, written), *run_requests(model, ranked)]


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_is_documented_and_bounded(name: str) -> None:
    """A number out of bounds is an error that names strategy and parameter."""
    from icl.errors import ConfigError
    from icl.registry import build

    needed = {"of": "vcd"} if any(f.name == "of" for f in fields(made(name))) else {}  # type: ignore[arg-type]
    for key, property_schema in parameters(name).items():
        bad: list[Any] = []
        if "minimum" in property_schema:
            bad.append(property_schema["minimum"] - 1)
        if "exclusiveMinimum" in property_schema:
            bad.append(property_schema["exclusiveMinimum"])
        if "maximum" in property_schema:
            bad.append(property_schema["maximum"] + 1)
        if "enum" in property_schema:
            bad.append("no such thing")
        named = rf"'{name}' has no preset" if key == "preset" else rf"strategy '{name}', {key}: "
        for value in bad:
            with pytest.raises(ConfigError, match=named):
                build("strategy", {"name": name, **needed, key: value})


@dataclass(frozen=True)
class Shorter(VCD):
    """Returns one score too few."""

    def combine(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        return super().combine(logits, step)[:, 1:]


def test_scores_of_a_wrong_vocabulary_fail_their_own_answers() -> None:
    bad, good = run_requests(
        Toy(), [DecodingRequest(prompt(1), Arm(Shorter(beta=0.0))), DecodingRequest(prompt(2), Arm(made("greedy")))]
    )
    assert isinstance(bad, Failure)
    assert "Shorter.combine returned shape [1, 23] for branches of [1, 24] (rows, vocabulary)" in bad.reason
    assert isinstance(good, Generation)
