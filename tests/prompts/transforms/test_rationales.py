"""Rationales stand before the answers of demonstrations, and the arms differ in what the model explains."""

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from icl.errors import ConfigError, PlanError
from icl.models.base import Request
from icl.registry import build
from icl.tasks.base import Pool
from icl.types import Generation
from tests.prompts.transforms.conftest import context


class ExplainingModel:
    """Says which answer it was given, and for which question."""

    abilities: ClassVar[frozenset[str]] = frozenset({"generate"})
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, digest: str) -> None:
        self.digest = digest

    def load(self) -> None: ...

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        texts = [request.prompt.text.split("\n") for request in requests]
        return [Generation(f"{t[0].split('>')[1]} {t[1].partition('. ')[0].split()[-1]}") for t in texts]


def explained(answers: Sequence[str], **more: Any) -> list[str]:
    model: Any = ExplainingModel(str(more))
    done = build("transform", {"name": "rationales", **more}).fitted(Pool(()), model).transform(context(answers))
    assert done.provenance == (f"rationales: {more.get('sees', 'answer')}, saw labels",)
    assert [demo.example.label for demo in done.demos] == list(reversed(answers))
    return [demo.example.answer for demo in reversed(done.demos)]


def test_the_model_explains_the_answer_and_the_demonstration_keeps_it() -> None:
    assert explained(["red", "blue"]) == ["q0? red So the answer is red", "q1? blue So the answer is blue"]
    assert explained(["red"], text="{answer}: {rationale}") == ["red: q0? red"]


def test_the_controls_explain_nothing_another_answer_or_another_example() -> None:
    assert all("red" not in text.partition("So")[0] for text in explained(["red", "blue"], sees="nothing"))
    wrong = explained(["red", "blue", "red"], sees="wrong")
    assert [text.partition(" So")[0] for text in wrong] == ["q0? blue", "q1? red", "q2? blue"]
    shuffled = explained(["red", "blue", "teal"], sees="shuffled")
    rationales = [text.partition(" So")[0] for text in shuffled]
    assert sorted(rationales) == sorted(["q0? red", "q1? blue", "q2? teal"])
    assert not any(rationale.startswith(f"q{i}") for i, rationale in enumerate(rationales))


def test_a_text_without_places_and_a_missing_model_are_refused() -> None:
    with pytest.raises(ConfigError, match="once each"):
        build("transform", {"name": "rationales", "text": "{answer}"})
    with pytest.raises(PlanError, match="needs a model"):
        build("transform", "rationales").fitted(Pool(()), None)
