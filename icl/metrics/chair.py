"""CHAIR (Rohrbach et al., EMNLP 2018): objects that a caption names and the image does not show.

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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl import Better, Example, Generation, ScoredSample, component, mentions_and_objects
from icl.metrics.run_level import RunStatistic, mean, on_scored_samples, ratio

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
