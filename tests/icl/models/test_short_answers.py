"""Short answers are computed once per prompt, and the cache of answers is bounded."""

from typing import Any

import pytest

from icl.lru_cache_bytes import LRUByteCache
from icl.models import answer_likelihood
from icl.models.answer_likelihood import ENTRY_BYTES, answers
from icl.streams import StreamKey
from icl.types import Generation, Part, Prompt, Turn


class Echo:
    """A model that returns the query's id and counts its prompts."""

    abilities = frozenset({"generate"})
    digest = "echo"

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def load(self) -> None:
        """Nothing to load."""

    def generate(self, requests: Any) -> list[Generation]:
        self.prompts += [str(next(request.prompt.parts()).text) for request in requests]
        return [Generation(f"re: {next(request.prompt.parts()).text}") for request in requests]


def _prompt(text: str) -> Prompt:
    return Prompt((Turn("user", (Part(text, "query.question"),)),), StreamKey(0, text))


def _answers(model: Echo, *texts: str) -> list[str]:
    own: Any = model
    return answers(own, [_prompt(text) for text in texts], 4)


@pytest.fixture(autouse=True)
def _three_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = LRUByteCache[tuple[str, str, int], str](3 * (ENTRY_BYTES + 99), lambda text: ENTRY_BYTES + len(text))
    monkeypatch.setattr(answer_likelihood, "_ANSWERS", cache)


def test_equal_prompts_are_answered_once() -> None:
    model = Echo()
    assert _answers(model, "a", "b", "a") == ["re: a", "re: b", "re: a"]
    assert _answers(model, "b", "a") == ["re: b", "re: a"]
    assert len(model.prompts) == 2


def test_more_prompts_than_the_cache_holds_are_all_answered() -> None:
    model = Echo()
    many = [f"{i}" for i in range(50)]
    assert _answers(model, *many) == [f"re: {text}" for text in many]
    assert len(answer_likelihood._ANSWERS) == 3
    assert _answers(model, *many[-3:]) == [f"re: {text}" for text in many[-3:]]
    assert len(model.prompts) == 50
    assert _answers(model, "0") == ["re: 0"]
    assert len(model.prompts) == 51
