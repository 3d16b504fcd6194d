"""Errors that a user can act on. Each message says what is wrong, where, and what to do.

The command line prints the message alone. In Python they are ordinary exceptions. Any other exception is a defect of
the toolkit and keeps its traceback.
"""

import hashlib
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches
from itertools import takewhile


class ICLError(Exception):
    """Base class of the errors that a user can act on."""


class ConfigError(ICLError):
    """A config file, an override or a component parameter is wrong. Raised before a model loads."""


class PlanError(ICLError):
    """The parts of an experiment are valid alone but cannot run together, such as more shots than the pool has."""


class DataError(ICLError):
    """A data source or one of its records cannot be used."""


class ImageError(DataError):
    """An image cannot be read. The runner records the sample as failed and continues."""


class ModelError(ICLError):
    """A checkpoint cannot be loaded, or a model violates its conventions."""


class ComponentError(ICLError):
    """A user's component raised an exception or returned an unusable value (see `icl.user_errors`)."""


class StoreError(ICLError):
    """A run directory belongs to another config, is damaged, or is in use."""


class DamagedFileError(StoreError):
    """A file of a run directory is not what was written. The message names what computes or restores it."""


class ICLWarning(UserWarning):
    """A warning about a problem that does not stop the run, with its cost."""


def strip_control_characters(text: str) -> str:
    """The text without control characters, so that data or model output cannot control a terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() else "�" for c in text)


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """ " Did you mean 'vcd'?" for the most similar candidate, or the empty string.

    Ties go to the candidate with the same letters, then to the one with the longest common prefix.
    """

    def nearness(other: str) -> tuple[float, bool, int]:
        similarity = SequenceMatcher(None, other, word).ratio()
        prefix_length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(other, word, strict=False)))
        return similarity, sorted(other) == sorted(word), prefix_length

    matches = get_close_matches(word, list(candidates), n=5, cutoff=0.5)
    return f" Did you mean '{max(matches, key=nearness)}'?" if matches else ""


MAX_LENGTH = 60
"""Characters of a parameter value that a label shows."""


def truncate(text: str) -> str:
    """The text, cut to MAX_LENGTH characters with a digest at the end: '[0.1, 0.2, 0.…#9f86d0]'."""
    if len(text) <= MAX_LENGTH:
        return text
    mark = f"…#{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:6]}"
    closed = text[-1] if text[-1] in ")]}" else ""
    return f"{text[: MAX_LENGTH - len(mark) - len(closed)]}{mark}{closed}"


def check_read(settings: Iterable[str], names: Sequence[str], key: str, reader: str) -> None:
    """Raise ModelError for a setting that would be ignored.

    Args:
        settings: The names that a config sets.
        names: The names that are read.
        key: The config key of the settings.
        reader: What reads them.
    """
    for name in settings:
        if name not in names:
            raise ModelError(
                f"{key}: {reader} does not read '{name}', so it would be ignored.{did_you_mean(name, names)} It takes "
                f"{', '.join(names) or 'none'}."
            )
