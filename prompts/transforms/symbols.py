"""Symbols for answers: what the model knows cannot help, only its demonstrations (SymDPO, Jia et al., CVPR 2025).

One injective map a context, drawn for the query: equal answers get equal symbols, by first appearance in the query's
options and then in the ranking. Options and gold go through the same map, so a right answer is the symbol. A symbol is
a made-up word that stands nowhere in the context. Questions stay as they are; one that lists the answers keeps them.
Where no demonstration and no option has the gold it keeps its name. The paper trains on such prompts; this tests.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from icl.metrics.normalise import plain
from icl.registry import component
from icl.types import Context
from prompts.changing import rescored
from prompts.renaming import answers_of

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


@component("transform", "symbols")
@dataclass(frozen=True)
class Symbols:
    """Every answer becomes a made-up word, in demonstrations, options and gold alike."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    def transform(self, context: Context) -> Context:
        answers = answers_of(context)
        if not answers:
            return context
        names = dict(zip(answers, _made_up(context), strict=False))
        return rescored(context, names, f"symbols: {len(answers)} answers, saw labels")


def _made_up(context: Context) -> Iterator[str]:
    """Distinct words of the form consonant-vowel-consonant-vowel-consonant, none of the context's own."""
    texts = [context.query.question, *context.query.options]
    texts += [text for demo in context.demos for text in (demo.example.question, *demo.example.answers)]
    known = {plain(word) for text in texts for word in text.split()} | {plain(text) for text in texts}
    rng = context.key.numpy("transform/symbols")
    while True:
        word = "".join(letters[int(rng.integers(len(letters)))] for letters in (CONSONANTS, VOWELS) * 2 + (CONSONANTS,))
        if word not in known:
            known.add(word)
            yield word
