"""Fake models for checks of components that use a model. Their output depends on the prompt only."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from icl.images import Image
from icl.models.base import Request
from icl.tasks.base import Pool
from icl.types import Example, Generation, Prompt

WORDS, YES_NO = 64, ("yes", "no")


@dataclass(frozen=True)
class GuessingModel:
    """A model with logits that are random numbers from the prompt's digest."""

    abilities: ClassVar[frozenset[str]] = frozenset({"logits"})
    needs: ClassVar[frozenset[str]] = frozenset()

    digest: str = "guessing"

    def load(self) -> None:
        """There is nothing to read."""

    def before_answer(self, prompt: Prompt) -> Prompt:
        return prompt

    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]:
        return [[i % WORDS] for i in range(len(options))]

    def open(self, prompts: Sequence[Prompt]) -> Any:
        return _GuessingSession(prompts)


@dataclass(frozen=True)
class NamingModel:
    """A model that answers with a word from the prompt's digest."""

    abilities: ClassVar[frozenset[str]] = frozenset({"generate"})
    needs: ClassVar[frozenset[str]] = frozenset()

    digest: str = "saying"

    def load(self) -> None:
        """There is nothing to read."""

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        return [Generation(f"a thing called {request.prompt.digest[:6]}") for request in requests]


@dataclass(frozen=True)
class _GuessingSession:
    prompts: Sequence[Prompt]

    def suffix_logprobs(self, suffixes: Sequence[Sequence[Sequence[int]]]) -> list[list[list[dict[int, float]]]]:
        scores = []
        for prompt, options in zip(self.prompts, suffixes, strict=True):
            numbers = hashlib.sha512(prompt.digest.encode()).digest()
            scores.append([[{ids[0]: -numbers[ids[0]] / 64}] for ids in options])
        return scores


def guessed_pool() -> Pool:
    """A pool of twelve examples with colored images and two answers."""
    return Pool(tuple(Example(f"pool-{i}", (_colored(i),), f"what is {i}?", (YES_NO[i % 2],)) for i in range(12)))


def _colored(number: int) -> Image:
    from PIL import Image as PILImage

    return Image.from_pil(PILImage.new("RGB", (5, 5), (250, 20 * number, 7)), f"pool-{number}")
