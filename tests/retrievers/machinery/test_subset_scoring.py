"""Set selection with a model of known probabilities: the more demonstrations answer 'a', the lower the entropy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest

from icl.errors import PlanError
from icl.models.answer_likelihood import entropy, probabilities
from icl.registry import build
from icl.tasks.base import Pool
from icl.types import Prompt
from retrievers.base import Resources
from retrievers.machinery.conformance import check_retriever

Make = Callable[..., Any]


@dataclass
class Votes:
    """The log-probability of an option's first token is its count in the demonstrations; the others are 0."""

    abilities: ClassVar[frozenset[str]] = frozenset({"logits"})
    needs: ClassVar[frozenset[str]] = frozenset()
    prompts: list[Prompt] = field(default_factory=list)

    def load(self) -> None: ...

    def before_answer(self, prompt: Prompt) -> Prompt:
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
    from retrievers.machinery.subset_scoring import FittedSubsetRetriever

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
