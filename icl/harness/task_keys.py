"""The types of the keys that the toolkit reads in a task file of lmms-eval, before any of its code is trusted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, FiniteFloat, TypeAdapter, ValidationError

from icl.errors import ConfigError

MAX_VALUES = 100_000
"""The limit stops aliases of aliases, which grow exponentially."""

MAX_INTEGER_BITS = 1024
"""No key takes a larger number. Python does not print numbers of more than 4,300 digits."""


class _Metric(BaseModel):
    """An entry of `metric_list`. The released tasks have empty ones, too."""

    metric: str
    aggregation: str | None = None
    higher_is_better: bool | None = None


_Files = str | list[str]
_TYPES: Mapping[tuple[str, ...], tuple[Any, str]] = {
    ("include",): (_Files | None, "a file or a list of files"),
    ("output_type",): (str, "a text, such as generate_until"),
    ("dataset_path",): (str, "a text, such as lmms-lab/POPE"),
    ("dataset_kwargs",): (dict[Any, Any] | None, "a mapping"),
    ("dataset_kwargs", "data_files"): (_Files | dict[str, _Files] | None, "files, such as {test: test.parquet}"),
    ("generation_kwargs",): (dict[Any, Any] | None, "a mapping, such as {max_new_tokens: 16}"),
    ("generation_kwargs", "max_new_tokens"): (int | FiniteFloat | None, "a finite number"),
    ("metric_list",): (list[_Metric | None] | None, "a list of mappings, such as [{metric: exact_match}]"),
}
"""Path of a key -> its type and the words for it. A key stands after the key that contains it."""


def check_keys(keys: Mapping[Any, Any], path: Path) -> None:
    """Raises ConfigError for a value of another type, for one that contains itself, and for too many or too large ones.

    Args:
        keys: The keys of one file.
        path: The file, for the message.
    """
    _check_size(keys, path)
    for place, (kind, words) in _TYPES.items():
        holder: Any = keys
        for key in place[:-1]:
            holder = holder.get(key) or {}
        if place[-1] not in holder:
            continue
        value = holder[place[-1]]
        try:
            TypeAdapter(kind).validate_python(value, strict=True)
        except ValidationError as error:
            raise ConfigError(f"{path}: {'.'.join(place)} is {value!r:.60}, and must be {words}.") from error


def _check_size(keys: Mapping[Any, Any], path: Path) -> None:
    waiting: list[tuple[Any, str, frozenset[int]]] = [
        (value, f"{key!s:.60}", frozenset()) for key, value in keys.items()
    ]
    count = 0
    while waiting:
        value, key, above = waiting.pop()
        count += 1
        if id(value) in above:
            raise ConfigError(f"{path}: {key} contains itself by an alias. Write its values out.")
        if count > MAX_VALUES:
            raise ConfigError(f"{path} has more than {MAX_VALUES:,} values, with those of aliases. Remove some.")
        if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
            raise ConfigError(f"{path}: {key} has too large a number. Numbers have at most 308 digits.")
        if isinstance(value, Mapping | list | tuple | set):
            inner: Sequence[Any] = list(value.values()) if isinstance(value, Mapping) else list(value)
            waiting += [(item, key, above | {id(value)}) for item in inner]
