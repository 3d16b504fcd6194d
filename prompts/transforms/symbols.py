"""Symbols for answers: only the demonstrations help, not the model's knowledge (SymDPO, Jia et al., CVPR 2025).

Each context has one injective map, drawn for the query. Equal answers get equal symbols. The symbol of an answer
depends on the query and on the answer, and on other answers only if two draw the same symbol. Options and gold use the
same map, so the right answer is a symbol. A symbol is an invented word, or one of `words`, that does not occur in the
context. A model with a small vocabulary can only say its own words. Questions stay unchanged, also if they list the
answers. The gold keeps its name if neither a demonstration nor an option has it. The paper trains on such prompts; this
transform tests with them.

Differs from the released code in its use: there pairs of answers for training are built from the same map.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from icl.errors import PlanError
from icl.metrics.normalize import normalize_text
from icl.registry import component
from icl.streams import StreamKey
from icl.types import Context
from prompts.example_changes import rename_answers
from prompts.label_renaming import answers_of

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


@component("transform", "symbols")
@dataclass(frozen=True)
class Symbols:
    """A transform that replaces every answer by an invented word, in demonstrations, options and gold."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    analysis: ClassVar[str] = "label_following"

    words: tuple[str, ...] = ()  # words to draw symbols from; none: invented from consonants and vowels

    def transform(self, context: Context) -> Context:
        answers = answers_of(context)
        if not answers:
            return context
        used = _context_words(context)
        free = sorted({word for word in self.words if normalize_text(word) not in used})
        if self.words and len(free) < len(answers):
            raise PlanError(
                f"symbols: query '{context.query.id}' needs {len(answers)} words for its answers, and {len(free)} "
                f"of the {len(self.words)} given are not in its prompt already. Give more words."
            )
        names = {}
        for answer in (answers[i] for i in context.key.order("transform/symbols", answers)):
            factor = f"transform/symbols/{normalize_text(answer)}"
            words = (free[i] for i in context.key.order(factor, free)) if free else _invent_words(context.key, factor)
            names[answer] = next(word for word in words if word not in used)
            used.add(names[answer])
        return rename_answers(context, names, f"symbols: {len(answers)} answers, saw labels")


def _context_words(context: Context) -> set[str]:
    """Every word and every complete text of the context, normalized."""
    texts = [context.query.question, *context.query.options]
    texts += [text for demo in context.demos for text in (demo.example.question, *demo.example.answers)]
    return {normalize_text(word) for text in texts for word in text.split()} | {normalize_text(text) for text in texts}


def _invent_words(key: StreamKey, factor: str) -> Iterator[str]:
    """Random words of the form consonant-vowel-consonant-vowel-consonant. Words may repeat."""
    rng = key.numpy(factor)
    while True:
        yield "".join(letters[int(rng.integers(len(letters)))] for letters in (CONSONANTS, VOWELS) * 2 + (CONSONANTS,))
