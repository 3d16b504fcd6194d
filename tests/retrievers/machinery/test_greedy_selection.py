"""Each greedy selection against a direct implementation of its formula."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import pytest

from icl.errors import PlanError
from icl.models.answer_likelihood import entropy, probabilities
from icl.registry import build
from icl.tasks.base import Pool
from icl.types import Prompt
from retrievers.base import Resources, normalize_rows
from retrievers.machinery.conformance import check_retriever
from retrievers.machinery.greedy_selection import PartMatches, dpp, mmr, most_diverse_subset, select_dissimilar


def _case(seed: int, count: int = 12, dim: int = 4) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    vectors = normalize_rows(rng.normal(size=(count, dim)))
    relevance = vectors.astype(float) @ normalize_rows(rng.normal(size=(1, dim)))[0]
    best = np.argsort(-relevance)
    return relevance[best], vectors[best]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("balance", [0.0, 0.3, 0.7, 1.0])
def test_mmr_is_its_formula(seed: int, balance: float) -> None:
    relevance, vectors = _case(seed)
    chosen: list[int] = []
    while len(chosen) < 6:
        gains = {
            i: balance * relevance[i] - (1 - balance) * max((vectors[i] @ vectors[j] for j in chosen), default=0)
            for i in range(12)
            if i not in chosen
        }
        chosen.append(max(gains, key=lambda i: gains[i]) if balance or chosen else 0)
    assert mmr(relevance, vectors, 6, balance) == chosen


@pytest.mark.parametrize("seed", range(8))
def test_dpp_is_the_greedy_maximum_of_the_determinant(seed: int) -> None:
    relevance, vectors = _case(seed)
    weight = np.exp(((1 + relevance) / 2 - (1 + relevance.max()) / 2) / 0.2)
    kernel = weight[:, None] * (1 + vectors.astype(float) @ vectors.T.astype(float)) / 2 * weight
    chosen: list[int] = []
    while len(chosen) < 4:
        volumes = {i: np.linalg.det(kernel[np.ix_([*chosen, i], [*chosen, i])]) for i in range(12) if i not in chosen}
        chosen.append(max(volumes, key=lambda i: volumes[i]))
    assert dpp(relevance, vectors, 4) == chosen


def test_dpp_stops_where_nothing_is_independent() -> None:
    """Two vectors in four copies: (1 + cos) / 2 has rank two."""
    vectors = normalize_rows(np.array([[1.0, 0.1], [1.0, 0.1], [0.1, 1.0], [0.1, 1.0]]))
    assert dpp(np.array([0.9, 0.9, 0.5, 0.5]), vectors, 4) == [0, 2]


@pytest.mark.parametrize("seed", range(8))
def test_coverage_is_its_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matches, weights = rng.uniform(-1, 1, (5, 10)).astype(np.float32), np.full(5, 0.2)
    chosen: list[int] = []
    while len(chosen) < 3:
        totals = {i: (weights * matches[:, [*chosen, i]].max(axis=1)).sum() for i in range(10) if i not in chosen}
        chosen.append(max(totals, key=lambda i: totals[i]))
    assert PartMatches(matches, weights).greedy_cover(3) == chosen


def test_coverage_restarts_when_no_candidate_adds_any() -> None:
    """Candidates 0 and 1 cover both parts. Then neither 2 nor 3 adds coverage, and 2 is better alone."""
    matches = np.array([[0.9, 0.1, 0.7, 0.6], [0.1, 0.9, 0.1, 0.1]], np.float32)
    assert PartMatches(matches, np.array([0.5, 0.5])).greedy_cover(4) == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(8))
def test_the_most_diverse_subset_has_the_smallest_sum_of_cosines(seed: int) -> None:
    _, vectors = _case(seed, 9)
    sums = {s: sum(float(vectors[i] @ vectors[j]) for i, j in combinations(s, 2)) for s in combinations(range(9), 3)}
    assert most_diverse_subset(vectors, 3) == list(min(sums, key=lambda s: sums[s]))


def test_select_dissimilar_is_strict_and_keeps_the_order() -> None:
    vectors = normalize_rows(np.array([[1, 0, 0], [0.8, 0.6, 0], [0.79, 0.6131, 0], [0, 0, 1]]))
    limit = float(vectors[0] @ vectors[1])
    assert select_dissimilar(vectors, 4, limit) == [0, 1, 3]
    assert select_dissimilar(vectors, 4, limit - 1e-4) == [0, 2, 3]


@pytest.mark.parametrize("choose", [lambda r, v: mmr(r, v, 3, 0.5), lambda r, v: dpp(r, v, 3)])
def test_equal_candidates_are_taken_in_order(choose: Any) -> None:
    vectors = normalize_rows(np.repeat([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]], 3, axis=0))
    assert choose(np.full(9, 0.57735), vectors) == [0, 3, 6]


@pytest.mark.parametrize(("determinant", "count"), [(4e-12, 2), (0.25e-12, 1)])
def test_dpp_adds_a_vector_that_keeps_a_trillionth_of_the_determinant(determinant: float, count: int) -> None:
    """Two unit vectors at a small angle a: the determinant of (1 + cos) / 2 is a^2 / 2."""
    angle = (2 * determinant) ** 0.5
    vectors = np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])
    assert dpp(np.ones(2), vectors, 2) == list(range(count))


def test_dpp_takes_the_earlier_of_nearly_equal_candidates() -> None:
    vectors = np.eye(3)
    assert dpp(np.array([0.5, 0.5 + 1e-8, 0.5]), vectors, 3) == [0, 1, 2]
    assert dpp(np.array([0.5, 0.5 + 1e-4, 0.5]), vectors, 3) == [1, 0, 2]


def test_dpp_and_mmr_of_few_candidates_end_with_them() -> None:
    assert dpp(np.zeros(0), np.zeros((0, 3)), 4) == []
    assert mmr(np.zeros(0), np.zeros((0, 3)), 4, 0.5) == []
    assert sorted(dpp(np.ones(2), np.eye(2), 4)) == sorted(mmr(np.ones(2), np.eye(2), 4, 0.5)) == [0, 1]


Make = Callable[..., Any]


@dataclass
class Votes:
    """The log-probability of an option's first token is its count in the demonstrations; the others are 0."""

    abilities: ClassVar[frozenset[str]] = frozenset({"logits"})
    needs: ClassVar[frozenset[str]] = frozenset()
    prompts: list[Prompt] = field(default_factory=list)

    def load(self) -> None: ...

    def before_answer(self, prompt: Prompt, reasoning: str = "") -> Prompt:
        return prompt

    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]:
        return [[i] * len(option.split()) for i, option in enumerate(options)]

    def open(self, prompts: Sequence[Prompt]) -> Any:
        self.prompts += prompts
        return Opened(prompts)


@dataclass
class Opened:
    prompts: Sequence[Prompt]

    def suffix_logprobs(self, suffixes: Any) -> Any:
        names = {0: "a", 1: "b", 2: "c"}
        out = []
        for prompt, options in zip(self.prompts, suffixes, strict=True):
            demo_answers = [turn.parts[0].text for turn in prompt.turns if turn.role == "assistant"]
            counts = {i: demo_answers.count(names.get(i, "")) for i in range(len(options))}
            out.append(
                [[[float(counts[j]) if n == 0 else 0.0 for j in counts] for n in range(len(o))] for o in options]
            )
        return out


@pytest.fixture
def pool(example: Make, turned: Make) -> Pool:
    """By distance, every other member answers 'a'; the nearest two answer 'b' and 'c'."""
    answers = "bcabacaabcaa"
    return Pool(tuple(example(f"{a}{i}", None, a, question=turned(i + 1)) for i, a in enumerate(answers)))


def _retrieve(name: str, pool: Pool, query: Any, number_embedder: Any, **more: Any) -> tuple[list[str], Votes]:
    model: Any = Votes()
    node = {"name": name, "by": "question", "embedder": number_embedder, "subsets": 40, **more}
    (demos,) = build("retriever", node).fit(pool, Resources(model=model)).retrieve([query.query], 3)
    return [one.id for one in demos], model


def test_mdl_selects_the_lowest_entropy_and_local_entropy_the_highest(
    pool: Pool, example: Make, turned: Make, number_embedder: Any
) -> None:
    query = example("q", None, question=turned(0), options=("a", "b", "c"))
    low_entropy, model = _retrieve("mdl", pool, query, number_embedder)
    assert [name[0] for name in low_entropy] == ["a"] * 3
    assert sorted(low_entropy, key=lambda name: int(name[1:])) == low_entropy  # by similarity
    unsure, _ = _retrieve("local_entropy", pool, query, number_embedder)
    assert unsure == ["b0", "c1", "a2"]  # one of each: the three nearest, which come first of equals
    assert len({prompt.digest for prompt in model.prompts}) == len(model.prompts)
    first = [part.text for part in model.prompts[0].parts() if part.name.endswith("answer")]
    assert first == ["a", "c", "b"]  # the nearest next to the query


def test_one_set_is_the_nearest(pool: Pool, example: Make, turned: Make, number_embedder: Any) -> None:
    query = example("q", None, question=turned(0), options=("a", "b", "c"))
    assert _retrieve("mdl", pool, query, number_embedder, subsets=1)[0] == ["b0", "c1", "a2"]


def test_options_count_by_the_mean_of_their_tokens(example: Make) -> None:
    prompt: Any = Prompt(())
    model: Any = Votes()
    one, two = probabilities(model, [prompt, prompt], ["x", "x y z"])
    assert one.tolist() == two.tolist() == [0.5, 0.5]
    assert entropy(np.array([[0.5, 0.5], [1.0, 0.0]])).tolist() == pytest.approx([np.log(2), 0])


@pytest.mark.parametrize("name", ["mdl", "local_entropy"])
def test_retriever_conformance(name: str, cache: Any) -> None:
    node = {"name": name, "embedder": "histogram", "subsets": 3}
    model: Any = Votes()
    check_retriever(build("retriever", node), resources=Resources(cache=str(cache), model=model))


def test_missing_requirements_are_an_error(pool: Pool, example: Make, number_embedder: Any) -> None:
    fit = build("retriever", {"name": "mdl", "by": "question", "embedder": number_embedder}).fit
    with pytest.raises(PlanError, match=r"'mdl' needs a model with logits, but got no model"):
        fit(pool, Resources())
    many = Pool(tuple(example(f"e{i}", None, f"answer {i}", question="1 0 0") for i in range(70)))
    model: Any = Votes()
    with pytest.raises(PlanError, match="compares the probabilities of 2 to 64 options, but query 'q' has 70"):
        fit(many, Resources(model=model)).retrieve([example("q", None, question="1 0 0").query], 1)


def test_as_many_sets_are_compared_as_the_parameter_says(number_embedder: Any) -> None:
    """Of 25 candidates, random sets of 5 are distinct; the first set is the nearest, and sets depend on the ids."""
    from icl.types import Query
    from retrievers.machinery.greedy_selection import FittedSubsetRetriever

    retriever = build("retriever", {"name": "mdl", "subsets": 7, "embedder": number_embedder})
    nothing: Any = None
    fitted = FittedSubsetRetriever(retriever, Pool(()), nothing, nothing, nothing, 3)
    ids = [f"e{i}" for i in range(25)]
    sets = fitted.sets(Query("q", (), "?"), ids, 5)
    assert len(sets) == 7
    assert sets[0] == (0, 1, 2, 3, 4)
    assert all(list(one) == sorted(set(one)) and len(one) == 5 for one in sets)
    turned = fitted.sets(Query("q", (), "?"), ids[::-1], 5)
    assert [{24 - i for i in one} for one in turned[1:]] == [set(one) for one in sets[1:]]
