"""Finds infinite numbers and NaN among parameters. Infinite weights would make every score meaningless."""

from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any, get_type_hints

from icl.constraints import FLOAT32_MAX, AllowInfinite


def find_non_finite(cls: type[Any], values: Mapping[str, Any]) -> "tuple[Field[Any], float] | None":
    """The first field whose value is, or holds, a number that is not finite; values: by the names of fields.

    A field whose number may be infinite says so: `limit: Annotated[float, AllowInfinite()]`.
    """
    for one in fields(cls):
        odd = _odd(values.get(one.name))
        if odd is not None and not any(isinstance(extra, AllowInfinite) for extra in _extras(cls, one.name)):
            return one, odd
    return None


def _odd(value: Any) -> float | None:
    """The first number in a value that is not finite. Nested components were checked when they were built."""
    if isinstance(value, float):
        return None if abs(value) <= FLOAT32_MAX else value
    if isinstance(value, Mapping):
        value = tuple(value.values())
    elif is_dataclass(value) and not isinstance(value, type) and not hasattr(value, "component"):
        value = tuple(getattr(value, one.name) for one in fields(value))
    if not isinstance(value, tuple | list | set | frozenset):
        return None
    return next((odd for item in value if (odd := _odd(item)) is not None), None)


def _extras(cls: type[Any], name: str) -> tuple[Any, ...]:
    """The metadata of a field's annotated type."""
    try:
        return tuple(getattr(get_type_hints(cls, include_extras=True).get(name), "__metadata__", ()))
    except NameError:  # an annotation of the class that only a type checker can read
        return ()
