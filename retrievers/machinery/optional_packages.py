"""Optional packages of embedders, which the toolkit does not install."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from icl.errors import ModelError


def import_optional(module: str, embedder: str, install: str) -> Any:
    """Import a module. Raises ModelError with the command that installs it if it is absent."""
    if find_spec(module) is None:
        raise _absent(module, embedder, install)
    return import_module(module)


def package_folder(module: str, embedder: str, install: str) -> Path:
    """The folder of a package with data, without importing it. Raises ModelError if it is absent."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise _absent(module, embedder, install)
    return Path(spec.origin).parent


def _absent(module: str, embedder: str, install: str) -> ModelError:
    return ModelError(f"embedder '{embedder}' needs the package {module}, which is absent. Run: pip install {install}")
