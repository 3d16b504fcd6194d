"""What a retriever reads beside the data is there: files, weights, packages. Asked before anything runs."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any


def run_preflight(component: Any) -> None:
    """Raises ICLError as the first use would.

    A component that reads something of its own has a method `ready` that raises; an embedder is ready where it can say
    its digest. Those inside a component are asked too.
    """
    for one in _inside(component):
        if (ready := getattr(one, "ready", None)) is not None:
            ready()
        elif hasattr(one, "embed_images") and hasattr(one, "embed_texts"):
            one.digest  # noqa: B018


def _inside(component: Any) -> Iterator[Any]:
    """The component and those in its fields, at any depth; not tasks and models, which have checks of their own."""
    if isinstance(component, tuple):
        for one in component:
            yield from _inside(one)
    elif is_dataclass(component) and not hasattr(component, "queries") and not hasattr(component, "abilities"):
        yield component
        for field in fields(component):
            yield from _inside(getattr(component, field.name))
