"""Errors that a user can act on: each is a sentence that says what is wrong, where, and what to do.

The command line prints the sentence alone; in Python they are ordinary exceptions. Anything that is not an
`ICLError` is a defect of the toolkit and keeps its traceback.
"""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches
from itertools import takewhile


class ICLError(Exception):
    """Base of every error with a sentence for the user."""


class ConfigError(ICLError):
    """A YAML, an override or a component parameter is wrong; raised before any model loads."""


class PlanError(ICLError):
    """The pieces are valid one by one and cannot run together (needs against abilities, shots against pool)."""


class DataError(ICLError):
    """A data source or one of its records is unusable."""


class ImageError(DataError):
    """One image cannot be read. The runner records the sample as failed and goes on."""


class ModelError(ICLError):
    """A checkpoint cannot be loaded, or a model did not do what its conventions promise."""


class ComponentError(ICLError):
    """A component of one's own raised what is no `ICLError`, or gave what cannot be used (see `icl.user_errors`)."""


class StoreError(ICLError):
    """A run directory is of another config, damaged, or in use."""


class ICLWarning(UserWarning):
    """A sentence about what goes on all the same, with what it costs."""


def strip_control_characters(text: str) -> str:
    """Without control characters: what data or a model put into a message must not steer a terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() else "�" for c in text)


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """ " Did you mean 'vcd'?" for the nearest known word, or the empty string.

    Of words as near as one another, the one of the same letters; else the one that begins as it does.
    """

    def nearness(other: str) -> tuple[float, bool, int]:
        similarity = SequenceMatcher(None, other, word).ratio()
        prefix_length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(other, word, strict=False)))
        return similarity, sorted(other) == sorted(word), prefix_length

    matches = get_close_matches(word, list(candidates), n=5, cutoff=0.5)
    return f" Did you mean '{max(matches, key=nearness)}'?" if matches else ""
