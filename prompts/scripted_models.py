"""Models for checks of what asks one: what they say, and how likely, follows from the prompt and nothing else."""

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
class Guessing:
    """Gives the first token of each option the logarithm of a share drawn from the prompt's digest."""

    abilities: ClassVar[frozenset[str]] = frozenset({"logits"})
    needs: ClassVar[frozenset[str]] = frozenset()

    digest: str = "guessing"

    def load(self) -> None:
        """There is nothing to read."""

    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]:
        return [[i % WORDS] for i in range(len(options))]

    def open(self, prompts: Sequence[Prompt]) -> Any:
        return _Opened(prompts)


@dataclass(frozen=True)
class Saying:
    """Says a word that follows from the prompt, and remembers nothing."""

    abilities: ClassVar[frozenset[str]] = frozenset({"generate"})
    needs: ClassVar[frozenset[str]] = frozenset()

    digest: str = "saying"

    def load(self) -> None:
        """There is nothing to read."""

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        return [Generation(f"a thing called {request.prompt.digest[:6]}") for request in requests]


@dataclass(frozen=True)
class _Opened:
    prompts: Sequence[Prompt]

    def suffix_logprobs(self, suffixes: Sequence[Sequence[Sequence[int]]]) -> list[list[list[dict[int, float]]]]:
        told = []
        for prompt, options in zip(self.prompts, suffixes, strict=True):
            drawn = hashlib.sha512(prompt.digest.encode()).digest()
            told.append([[{ids[0]: -drawn[ids[0]] / 64}] for ids in options])
        return told


def guessed_pool() -> Pool:
    """Twelve colored members of two answers."""
    return Pool(tuple(Example(f"pool-{i}", (_colored(i),), f"what is {i}?", (YES_NO[i % 2],)) for i in range(12)))


def _colored(number: int) -> Image:
    from PIL import Image as PILImage

    return Image.from_pil(PILImage.new("RGB", (5, 5), (250, 20 * number, 7)), f"pool-{number}")
