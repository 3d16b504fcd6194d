"""Symbols for answers: what the model knows cannot help, only its demonstrations (SymDPO, Jia et al., CVPR 2025).

One injective map a context, drawn for the query: equal answers get equal symbols, by first appearance in the query's
options and then in the ranking. Options and gold go through the same map, so a right answer is the symbol. A symbol is
a made-up word, or one of `words`, that stands nowhere in the context; a model of a small vocabulary can only say words
of its own. Questions stay as they are; one that lists the answers keeps them. Where no demonstration and no option has
the gold it keeps its name. The paper trains on such prompts; this tests.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from icl.errors import PlanError
from icl.metrics.normalize import normalize_text
from icl.registry import component
from icl.types import Context
from prompts.example_changes import rescored
from prompts.label_renaming import answers_of

if TYPE_CHECKING:
    import numpy as np

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


@component("transform", "symbols")
@dataclass(frozen=True)
class Symbols:
    """Every answer becomes a made-up word, in demonstrations, options and gold alike."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    analysis: ClassVar[str] = "label_following"

    words: tuple[str, ...] = ()  # what symbols are drawn from; none: made up of consonants and vowels

    def transform(self, context: Context) -> Context:
        answers = answers_of(context)
        if not answers:
            return context
        known = _known(context)
        rng = context.key.numpy("transform/symbols")
        free = sorted({word for word in self.words if normalize_text(word) not in known})
        if self.words and len(free) < len(answers):
            raise PlanError(
                f"symbols: query '{context.query.id}' needs {len(answers)} words for its answers, and {len(free)} "
                f"of the {len(self.words)} given are not in its prompt already. Give more words."
            )
        drawn = (free[int(i)] for i in rng.permutation(len(free))) if free else _made_up(rng, known)
        names = dict(zip(answers, drawn, strict=False))
        return rescored(context, names, f"symbols: {len(answers)} answers, saw labels")


def _known(context: Context) -> set[str]:
    """Every word and every whole text of the context, in plain form."""
    texts = [context.query.question, *context.query.options]
    texts += [text for demo in context.demos for text in (demo.example.question, *demo.example.answers)]
    return {normalize_text(word) for text in texts for word in text.split()} | {normalize_text(text) for text in texts}


def _made_up(rng: "np.random.Generator", known: set[str]) -> Iterator[str]:
    """Distinct words of the form consonant-vowel-consonant-vowel-consonant, none of them known."""
    seen = set(known)
    while True:
        word = "".join(letters[int(rng.integers(len(letters)))] for letters in (CONSONANTS, VOWELS) * 2 + (CONSONANTS,))
        if word not in seen:
            seen.add(word)
            yield word
