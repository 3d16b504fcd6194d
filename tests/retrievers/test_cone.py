"""ConE with a model whose likelihoods are known: a word of the question is likely if the demonstration has it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from icl.errors import DataError, PlanError
from icl.registry import build
from icl.tasks.base import Pool
from icl.types import Prompt
from retrievers.base import Resources
from retrievers.machinery.conformance import check_retriever

Make = Callable[..., Any]


@dataclass
class Echo:
    """-1 for a word that the demonstration's question has too, -3 for any other."""

    abilities: ClassVar[frozenset[str]] = frozenset({"text_logprobs"})
    needs: ClassVar[frozenset[str]] = frozenset()
    prompts: list[Prompt] = field(default_factory=list)

    def load(self) -> None: ...

    def text_logprobs(self, prompts: Sequence[Prompt], name: str) -> list[list[float]]:
        self.prompts += prompts
        logprobs = []
        for prompt in prompts:
            parts = {part.name: part.text for part in prompt.parts()}
            have = (parts["demo[0].question"] or "").split()
            logprobs.append([-1.0 if word in have else -3.0 for word in (parts[name] or "").split()])
        return logprobs


@pytest.fixture
def pool(color: Make, example: Make) -> Pool:
    """The first member is nearest by image, the last by words."""
    questions = ["what is it", "name the hue", "which color is here", "which color is it"]
    return Pool(tuple(example(f"e{i}", color("red", i), "a", question=q) for i, q in enumerate(questions)))


def _retrieve(pool: Pool, query: Any, k: int, model: Any, **more: Any) -> list[Any]:
    node = {"name": "cone", "embedder": "histogram", **more}
    return list(build("retriever", node).fit(pool, Resources(model=model)).retrieve([query.query], k)[0])


def test_demonstrations_that_make_the_question_most_likely_are_first(pool: Pool, color: Make, example: Make) -> None:
    query, model = example("q", color("red", 50), question="which color is it"), Echo()
    demos = _retrieve(pool, query, 4, model)
    assert [one.id for one in demos] == ["e3", "e2", "e0", "e1"]
    assert [one.score for one in demos] == [-4.0, -6.0, -8.0, -12.0]  # sums over the question's words
    assert all(sum(part.name.endswith("answer") for part in prompt.parts()) == 1 for prompt in model.prompts)


def test_the_next_nearest_follow_the_candidates(pool: Pool, color: Make, example: Make) -> None:
    query, model = example("q", color("red", 50), question="which color is it"), Echo()
    demos = _retrieve(pool, query, 4, model, candidates=3)
    assert [one.id for one in demos] == ["e2", "e0", "e1", "e3"]
    assert len(model.prompts) == 3


def test_retriever_conformance(cache: Any) -> None:
    node = {"name": "cone", "embedder": "histogram", "candidates": 6}
    model: Any = Echo()
    check_retriever(build("retriever", node), resources=Resources(cache=str(cache), model=model))


def test_missing_requirements_are_an_error(pool: Pool, color: Make, example: Make) -> None:
    query = example("q", color("red", 50), question="")
    with pytest.raises(PlanError, match=r"'cone' needs a model .* got no model. Use the model 'hf'"):
        _retrieve(pool, query, 1, None)
    with pytest.raises(DataError, match="query 'q' has no question whose likelihood"):
        _retrieve(pool, query, 1, Echo())
