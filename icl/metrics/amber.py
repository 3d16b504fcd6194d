"""AMBER's scores of descriptions (Wang et al., 2311.07397), over the objects that its annotators marked.

    amber_chair    hallucinated mentions / mentions of AMBER's 340 objects and their other words
    amber_cover    objects of the image that the description names / objects of the image
    amber_hal      descriptions with a hallucinated mention / descriptions
    amber_cog      objects that people expect and the image lacks, and that the description names / all such objects

All but `amber_hal` are ratios of sums over a cell, as released. The task `amber` stores what they need in `secret`.

Differs from the released code in words: a word in the singular counts there if a tagger calls it a noun, and here
without a tagger. Near synonyms of an object by word vectors are hallucinations, unless the task has `similar`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from icl import Better, Example, Generation, RunStatistic, ScoredSample, component, on_scored_samples
from icl.metrics.chair import encoded_share, ratio_of_shares
from icl.text.object_mentions import singular, split_words


class Counts(NamedTuple):
    """What a description names: (part, whole) of each ratio."""

    chair: tuple[int, int]
    cover: tuple[int, int]
    cog: tuple[int, int]


@dataclass(frozen=True)
class AmberRatio:
    """Base class of the ratios. `counts` picks one of them."""

    counts: ClassVar[Callable[[Counts], tuple[int, int]]]

    def score(self, generation: Generation, example: Example) -> float | None:
        read = read_description(generation.text, example)
        return None if read is None else encoded_share(*type(self).counts(read))

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        return on_scored_samples(samples, ratio_of_shares)


@component("metric", "amber_chair")
@dataclass(frozen=True)
class AmberChair(AmberRatio):
    """CHAIR of AMBER: share of mentions that are hallucinated."""

    better: ClassVar[Better] = "lower"
    counts: ClassVar[Callable[[Counts], tuple[int, int]]] = lambda read: read.chair


@component("metric", "amber_cover")
@dataclass(frozen=True)
class AmberCover(AmberRatio):
    """Cover of AMBER: share of the images' objects that are named."""

    better: ClassVar[Better] = "higher"
    counts: ClassVar[Callable[[Counts], tuple[int, int]]] = lambda read: read.cover


@component("metric", "amber_cog")
@dataclass(frozen=True)
class AmberCog(AmberRatio):
    """Cog of AMBER: share of the objects that people expect in vain and that are named."""

    better: ClassVar[Better] = "lower"
    counts: ClassVar[Callable[[Counts], tuple[int, int]]] = lambda read: read.cog


@component("metric", "amber_hal")
@dataclass(frozen=True)
class AmberHal:
    """Hal of AMBER: 1 if a description has a hallucinated mention, otherwise 0."""

    better: ClassVar[Better] = "lower"

    def score(self, generation: Generation, example: Example) -> float | None:
        read = read_description(generation.text, example)
        return None if read is None else float(read.chair[0] > 0)


def read_description(text: str, example: Example) -> Counts | None:
    """The counts of a description; None for an example that is not AMBER's."""
    facts: Any = example.secret.get("amber")
    if facts is None:
        return None
    truth, expected = (_places(facts[key], facts["related"]) for key in ("truth", "hallu"))
    mentions = [word for word in map(singular, split_words(text)) if word in facts["words"]]
    uncertain = [word for word in mentions if word not in facts["safe"]]
    similar = facts.get("similar", {})
    right = {word: truth[word] if word in truth else _nearest(word, truth, similar) for word in uncertain}
    covered = {place for place in right.values() if place is not None}
    others = [word for word in uncertain if word not in truth]
    named = {expected.get(word) for word in others} | {_nearest(word, expected, similar) for word in others}
    return Counts(
        (sum(right[word] is None for word in uncertain), len(mentions)),
        (len(covered), len(facts["truth"])),
        (len(named - {None}), len(facts["hallu"])),
    )


def _nearest(word: str, places: Mapping[str, int], similar: Mapping[str, frozenset[str]]) -> int | None:
    """The place of the first object that is the word or similar to it, in the order of `places`."""
    near = similar.get(word, frozenset())
    return next((place for name, place in places.items() if name == word or name in near), None)


def _places(objects: Sequence[str], related: Any) -> dict[str, int]:
    """Word -> the place of the object that it names. Other words of objects come first, as released."""
    pairs = [(word, place) for place, name in enumerate(objects) for word in related.get(name, ())]
    places: dict[str, int] = {}
    for word, place in (*pairs, *((name, place) for place, name in enumerate(objects))):
        places.setdefault(word, place)
    return places
