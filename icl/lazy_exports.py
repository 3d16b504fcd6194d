"""Public names of a package, imported at their first use, and the check that the package is the toolkit's own.

The five packages have common names (`prompts`, `experiments`, ...), so a file such as `prompts.py` in the working
folder can shadow one of them. The check compares a marker in the package's `__init__.py`. It never runs the file.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = ("icl", "prompts", "retrievers", "decoding", "experiments")
MARKER = '__toolkit__ = "mm-icl"'


@cache
def check_packages() -> None:
    """Checks once per process that no other file shadows one of the toolkit's packages.

    Raises:
        ImportError: A module of another origin is imported under the name of a package.
    """
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ImportError(f"the package '{name}' of mm-icl is missing. Install mm-icl again.")
        origin = Path(spec.origin) if spec.origin else None
        if origin is None or MARKER not in origin.read_text(encoding="utf-8", errors="replace"):
            raise ImportError(
                f"'{name}' is {origin or 'a folder without __init__.py'}, which shadows the package '{name}' of "
                "mm-icl. Rename it, or run from another folder."
            )


def lazy_exports(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package whose public names are imported at their first use.

    Args:
        package: Name of the package.
        modules: Module -> the public names that it defines. An empty sequence exports the module itself.
    """
    sources = {name: module for module, names in modules.items() for name in names}
    submodules = {module.rpartition(".")[2]: module for module, names in modules.items() if not names}

    def get_attribute(name: str) -> Any:
        if name in sources:
            check_packages()
            return getattr(importlib.import_module(sources[name]), name)
        if name in submodules:
            return importlib.import_module(submodules[name])
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def list_names() -> list[str]:
        return sorted({"__all__", "__doc__", "__name__", *sources, *submodules})

    return get_attribute, list_names
