"""mm-icl: research on in-context learning with multimodal language models.

What a notebook needs is re-exported here and imported at first use, so that `import icl` is quick.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decoding.base import Strategy as Strategy
    from experiments.api import answer as answer
    from experiments.api import compose as compose
    from experiments.api import load_model as load_model
    from experiments.api import load_run as load_run
    from experiments.api import load_task as load_task
    from experiments.api import retrieve as retrieve
    from experiments.api import run as run

__version__ = "0.1.0"

_LAZY = {
    "load_task": "experiments.api",
    "load_model": "experiments.api",
    "retrieve": "experiments.api",
    "answer": "experiments.api",
    "compose": "experiments.api",
    "run": "experiments.api",
    "load_run": "experiments.api",
    "Strategy": "decoding.base",
    "Image": "icl.images",
    "Example": "icl.types",
    "Query": "icl.types",
    "Context": "icl.types",
    "Prompt": "icl.types",
    "component": "icl.registry",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name == "edits":
        return importlib.import_module("icl.edits")
    raise AttributeError(f"module 'icl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY, "edits"])


def _check_neighbors() -> None:
    """The other packages have common names: say so when another file stands in front of one of them."""
    ours = Path(__file__).resolve().parent.parent
    for name in ("prompts", "retrievers", "decoding", "experiments"):
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve() if spec and spec.origin else None
        if found is not None and found.parent.parent != ours:
            raise ImportError(
                f"'{name}' is taken by {found}, which stands in front of the toolkit's own package "
                f"({ours / name}). Rename that file, or run from another folder."
            )


_check_neighbors()
