"""Hallucinated objects in descriptions: the scores of AMBER and CHAIR.

CHAIR (Rohrbach et al., EMNLP 2018): objects that a caption names and the image does not show.

    CHAIR_I = hallucinated object mentions / all object mentions
    CHAIR_S = captions with at least one hallucinated mention / captions

As in the released code, mentions count, not distinct objects. A caption that names nothing is clean for CHAIR_S and has
no CHAIR_I. The published CHAIR_I is a ratio of sums over a corpus: `chair_corpus`. `chair_i` is the mean of the
captions' own shares, which gives short captions more weight. Lower is better, and shorter captions lower all three, so
compare `chair_recall` and `caption_length` too.

An example stores what the metrics need in `secret`: `objects`, the objects in the image, and `vocabulary`, the names
that count as mentions: a list, a mapping from names to objects, or `coco` (`icl.text.object_mentions`).

Differs from the released code in nouns whose singular its library gets wrong ("bus"), which `vocabulary: coco_released`
repeats, and in `chair_i` of a caption that names nothing: None, not 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from icl import (
    Better,
    Example,
    Generation,
    RunStatistic,
    ScoredSample,
    component,
    mentions_and_objects,
    on_scored_samples,
)
from icl.metrics.run_level import mean, ratio
from icl.text.object_mentions import singular, split_words

MAX_MENTIONS = 999  # mentions of a caption that `chair_corpus` can count


@component("metric", "chair_i")
@dataclass(frozen=True)
class ChairI:
    """Share of a caption's object mentions that are not in the image. None if it names no object."""

    better: ClassVar[Better] = "lower"

    def score(self, generation: Generation, example: Example) -> float | None:
        named, there = mentions_and_objects(generation.text, example) or ([], set())
        return sum(name not in there for name in named) / len(named) if named else None


@component("metric", "chair_s")
@dataclass(frozen=True)
class ChairS:
    """1 if a caption names an object that is not in the image, otherwise 0."""

    better: ClassVar[Better] = "lower"

    def score(self, generation: Generation, example: Example) -> float | None:
        read = mentions_and_objects(generation.text, example)
        return None if read is None else float(any(name not in read[1] for name in read[0]))


@component("metric", "chair_recall")
@dataclass(frozen=True)
class ChairRecall:
    """Share of the image's objects that a caption names. It complements CHAIR, which does not measure it."""

    better: ClassVar[Better] = "higher"

    def score(self, generation: Generation, example: Example) -> float | None:
        read = mentions_and_objects(generation.text, example)
        return len(read[1] & set(read[0])) / len(read[1]) if read and read[1] else None


@component("metric", "chair_corpus")
@dataclass(frozen=True)
class ChairCorpus:
    """The published CHAIR_I: share of all object mentions of a cell that are not in their image.

    CHAIR (Rohrbach et al., EMNLP 2018), with the columns of `chair_i`. A sample's own number encodes two counts,
    hallucinated mentions w and all mentions m: (1000 w + 999 - m) / 10^6.

    Differs from the released code in nouns whose singular its library gets wrong ("bus"), which `vocabulary:
    coco_released` repeats.
    """

    better: ClassVar[Better] = "lower"

    def score(self, generation: Generation, example: Example) -> float | None:
        read = mentions_and_objects(generation.text, example)
        if read is None:
            return None
        named = read[0][:MAX_MENTIONS]
        return encoded_share(sum(name not in read[1] for name in named), len(named))

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        return on_scored_samples(samples, ratio_of_shares)


def encoded_share(part: int, whole: int) -> float:
    """Two counts, of at most 999, as one score: (1000 part + 999 - whole) / 10^6."""
    return (1000 * min(part, MAX_MENTIONS) + MAX_MENTIONS - min(whole, MAX_MENTIONS)) / 1_000_000


def ratio_of_shares(samples: Sequence[ScoredSample]) -> RunStatistic:
    """The sum of the parts over the sum of the wholes, of samples with encoded shares."""
    counts = [divmod(round(1_000_000 * (sample.score or 0)), 1000) for sample in samples]
    return ratio([part for part, _ in counts], [MAX_MENTIONS - left for _, left in counts])


@component("metric", "caption_length")
@dataclass(frozen=True)
class CaptionLength:
    """Mean number of words of the outputs of a cell. Shorter captions hallucinate less.

    A sample's own score is its number of words over 100, at most 1. No released code.
    """

    better: ClassVar[Better] = "neither"

    def score(self, generation: Generation, example: Example) -> float | None:
        return min(1.0, len(generation.text.split()) / 100)

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        outputs = [None if sample.score is None else sample.output for sample in samples]
        return mean([None if text is None else float(len(text.split())) for text in outputs], high=100)


class Counts(NamedTuple):
    """What a description names: (part, whole) of each ratio."""

    chair: tuple[int, int]
    cover: tuple[int, int]
    cog: tuple[int, int]


class AmberScore:
    """Base class of AMBER's scores.

    AMBER's scores of descriptions (Wang et al., 2311.07397), over the objects that its annotators marked.

        amber_chair    hallucinated mentions / mentions of AMBER's 340 objects and their other words
        amber_cover    objects of the image that the description names / objects of the image
        amber_hal      descriptions with a hallucinated mention / descriptions
        amber_cog      objects that people expect and the image lacks, and that the description names / all such objects

    All but `amber_hal` are ratios of sums over a cell, as released. The task `amber` stores what they need in `secret`.

    Differs from the released code in words: a word in the singular counts there if a tagger calls it a noun, and here
    without a tagger. Near synonyms of an object by word vectors are hallucinations, unless the task has `similar`.
    """


@dataclass(frozen=True)
class AmberRatio(AmberScore):
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
class AmberHal(AmberScore):
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
