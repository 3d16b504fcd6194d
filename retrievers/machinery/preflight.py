"""Checks before a run that the files, weights and packages of retrievers and metrics exist."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any


def run_preflight(component: Any) -> None:
    """Check a component and the components inside it. Raises the ICLError that the first use would raise.

    A component with files of its own has a method `preflight` that raises. An embedder is checked by its digest.
    """
    for part in _parts(component):
        if (preflight := getattr(part, "preflight", None)) is not None:
            preflight()
        elif hasattr(part, "embed_images") and hasattr(part, "embed_texts"):
            part.digest  # noqa: B018


def _parts(component: Any) -> Iterator[Any]:
    """The component and all components inside it, without tasks and models, which have their own checks."""
    if isinstance(component, tuple):
        for element in component:
            yield from _parts(element)
    elif is_dataclass(component) and not hasattr(component, "queries") and not hasattr(component, "abilities"):
        yield component
        for field in fields(component):
            yield from _parts(getattr(component, field.name))
