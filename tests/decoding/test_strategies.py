"""Properties of every registered strategy. A new strategy is covered by its registration."""

from dataclasses import MISSING, fields, replace
from typing import Any

import pytest
import torch

from decoding.arms.inspection import constant_strength, logits_count, probe_branches, probe_prompt
from decoding.base import Strategy
from decoding.conformance import apply_mask, check_strategy, random_logits
from decoding.engine.decoding_step import combine_branches
from decoding.strategies.vcd import VCD
from icl.registry import build, describe, entries, resolve


def made(name: str) -> Strategy:
    """The strategy with its defaults, around a contrast with a mask if it needs another strategy."""
    cls = resolve("strategy", name)
    missing = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
    assert missing <= {"of"}, f"{name} has parameters without defaults"
    strategy: Strategy = cls(**dict.fromkeys(missing, VCD(alpha=1.5)))
    return strategy


ALL = sorted(entries("strategy"))


@pytest.fixture(params=ALL)
def strategy(request: pytest.FixtureRequest) -> Strategy:
    return made(request.param)


def test_the_first_strategies_are_registered() -> None:
    assert {"greedy", "sampling", "vcd", "mask_only", "temperature_matched"} <= set(ALL)


def test_conforms(strategy: Strategy) -> None:
    assert check_strategy(strategy).branches >= 1


@pytest.mark.parametrize(
    ("node", "parameters"),
    [
        ("vcd", {"alpha": 1.0, "beta": 0.1, "noise_step": 500, "images": "query"}),
        ("cad", {"alpha": 0.5, "without": "demonstrations"}),
        ({"name": "cad", "preset": "conflict"}, {"alpha": 1.0}),
        ({"name": "cad", "preset": "summarization"}, {"alpha": 0.5}),
        ("adacad", {"floor": 0.0, "without": "demonstrations"}),
        ({"name": "adacad", "preset": "answers"}, {"floor": 0.0}),
        ({"name": "adacad", "preset": "summarization"}, {"floor": 0.3}),
        ("code", {"kappa": 0.7, "max_new_tokens": 512, "images": "query"}),
        ({"name": "code", "preset": "evaluation"}, {"kappa": 0.7}),
        ({"name": "code", "preset": "fallback"}, {"kappa": 0.2}),
        ("dcd", {"granularity": "options", "direction": "dynamic", "entity": "recognized"}),
        ("nbce", {"beta": 0.25, "windows": 0, "pooling": "min_entropy", "top_p": 0.95, "eta": 0.1}),
    ],
    ids=str,
)
def test_published_numbers_are_pinned(node: Any, parameters: dict[str, Any]) -> None:
    """A changed default would be another method under the same name."""
    built = build("strategy", node)
    assert {name: getattr(built, name) for name in parameters} == parameters


@pytest.mark.parametrize("preset", [(name, preset) for name in ALL for preset in resolve("strategy", name).presets])
def test_presets_conform(preset: tuple[str, str]) -> None:
    name, which = preset
    check_strategy(build("strategy", {"name": name, "preset": which}))


def test_the_first_branch_is_the_prompt_itself(strategy: Strategy) -> None:
    prompt = probe_prompt(shots=3)
    first = probe_branches(strategy, prompt)[0]
    if strategy.traits.rows_per_beam:  # a search may observe it
        first = replace(first, interventions=())
    assert first.digest == prompt.digest


def sums_to_one(name: str) -> bool:
    strength = constant_strength(made(name))
    return strength is not None and abs(strength - 1) <= 1e-6


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("strategy", filter(sums_to_one, ALL), indirect=True)
def test_identical_branches_decode_as_the_reference_where_weights_sum_to_one(strategy: Strategy, scale: float) -> None:
    reference = random_logits(1, scale=scale, seed=3)
    combined = strategy.combine(reference.expand(len(probe_branches(strategy)), -1, -1).clone(), 2)
    torch.testing.assert_close(
        apply_mask(strategy, combined, reference[0]).softmax(-1),
        apply_mask(strategy, reference[0], reference[0]).softmax(-1),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "strategy", [name for name in ALL if not made(name).traits.draws_random_numbers], indirect=True
)  # random numbers depend on the size of the vocabulary
def test_a_banned_token_counts_as_one_that_the_vocabulary_lacks(strategy: Strategy) -> None:
    """A logits processor bans a token in every branch. It must not be the least probable token, for example."""
    logits = random_logits(logits_count(strategy), seed=5)
    banned = torch.cat([logits, torch.full_like(logits[..., :1], -torch.inf)], -1)
    for step in (0, 9):
        (scores, faults), (expected, _) = (combine_branches(strategy, z, step) for z in (banned, logits))
        assert not faults
        assert bool((scores[:, -1] == -torch.inf).all())
        torch.testing.assert_close(scores[:, :-1].softmax(-1), expected.softmax(-1), rtol=1e-4, atol=1e-6)


def test_is_rebuilt_equal_from_its_canonical_node(strategy: Strategy) -> None:
    assert build("strategy", describe(strategy)) == strategy


def test_the_listing_describes_it() -> None:
    assert all(len(entry.summary) > 20 for entry in entries("strategy").values())


@pytest.mark.parametrize("name", ["parallel_icl", "moicl_hypernetwork"])
def test_an_embedder_may_be_a_mapping(name):
    node = {"name": "mix", "one": "pixels", "other": "histogram"}
    strategy = build("strategy", {"name": name, "embedder": node})
    assert hash(strategy) == hash(build("strategy", {"name": name, "embedder": node}))
    assert describe(strategy)["embedder"] == describe(build("embedder", node))
