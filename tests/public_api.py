"""The page of public names: `python tests/public_api.py` writes `docs/api.md` from `__all__` of the public modules."""

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

PAGE = ROOT / "docs" / "api.md"
PUBLIC_MODULES = ("icl", "icl.edits", "icl.testing", "prompts", "retrievers", "decoding", "experiments")

HEAD = """# Public API

Import from these modules only. Their names follow semantic versioning. From 1.0 on, a name is deprecated for one minor
release before it is removed. Before 1.0, a minor release may rename it, and the [changelog](../CHANGELOG.md) says so.
Everything else is internal.

`python tests/public_api.py` writes this page.
"""


def summary(value: Any) -> str:
    """The first sentence of a docstring on one line."""
    paragraph = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    return paragraph.replace("|", "\\|")


def public_names(module: ModuleType) -> Iterator[tuple[str, str]]:
    """(name, summary) of each public name of a module, in alphabetical order."""
    for name in sorted(module.__all__, key=str.lower):
        yield name, summary(getattr(module, name))


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for name in PUBLIC_MODULES:
        module = importlib.import_module(name)
        rows = "".join(f"| `{public}` | {text} |\n" for public, text in public_names(module))
        parts.append(f"## `{name}`\n\n{summary(module)}\n\n| name | what it is |\n|---|---|\n{rows}")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
