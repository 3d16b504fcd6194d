"""Which drawings a task asks about and which its demonstrations show: by noun, by drawing or by author, and by style.

The same person draws an apple and a pear in the same way, and often the same apple twice. A split by drawing leaves
drawings of one author on both sides, so that the nearest demonstration is often by the query's own author. A split by
author does not.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from icl.errors import ConfigError, did_you_mean
from icl.streams import StreamKey
from icl.tasks.drawings.table import DrawingRecord
from icl.types import Example

NounSet = Literal["all", "seen", "held_out"]
SplitBy = Literal["drawing", "author"]

HELD_OUT_BITS, QUERY_BITS = 4, 2
"""Random bits that must be zero: one noun in 16 is held out from training, and one drawing or author in four is on the
side of the queries. The shipped weights depend on the first number."""


def with_noun(drawings: Iterable[DrawingRecord], nouns: NounSet) -> list[DrawingRecord]:
    """The drawings whose title names a noun of the set."""
    return [one for one in drawings if one.noun and (nouns == "all" or is_held_out(one.noun) == (nouns == "held_out"))]


def is_held_out(noun: str) -> bool:
    """Whether no drawing of this noun is for training. The choice depends on the noun alone."""
    return StreamKey(0, noun).number("drawings/held out", HELD_OUT_BITS) == 0


def is_for_queries(drawing: DrawingRecord, by: SplitBy, seed: int) -> bool:
    """The side of a drawing: its own, or that of its author."""
    name = drawing.source if by == "author" else drawing.id
    return StreamKey(seed, name).number(f"drawings/split by {by}", QUERY_BITS) == 0


def of_styles(drawings: Sequence[DrawingRecord], styles: Sequence[str] | None, parameter: str) -> list[DrawingRecord]:
    """The drawings of some styles; all without styles. Raises ConfigError for a style that is not there."""
    if styles is None:
        return list(drawings)
    present = {one.style for one in drawings}
    if unknown := [style for style in styles if style not in present]:
        raise ConfigError(
            f"{parameter}: there are no drawings of the style '{unknown[0]}'."
            f"{did_you_mean(unknown[0], sorted(present))} Styles that are installed: "
            f"{', '.join(sorted(present))}. Others: icl data drawings"
        )
    return [one for one in drawings if one.style in styles]


def public_facts(drawing: DrawingRecord) -> Mapping[str, str]:
    """The facts that a sample stores: the style, and who made the drawing (for the leakage audit)."""
    return {"style": drawing.style, "source": drawing.source}


def demo_sources(demos: Sequence[Example]) -> Mapping[str, list[str]]:
    """Who made each demonstration's drawings, for the leakage audit."""
    return {"demo_sources": [str(demo.meta["source"]) for demo in demos]}
