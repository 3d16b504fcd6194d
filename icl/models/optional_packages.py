"""Optional packages of models and embedders, which the toolkit does not install."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from icl.errors import ModelError


def import_optional(module: str, user: str, install: str) -> Any:
    """Import a module.

    Args:
        module: Its name.
        user: What needs it, such as "embedder 'minilm'".
        install: The arguments of `pip install` that install it.

    Raises:
        ModelError: It is absent; with the command that installs it.
    """
    if find_spec(module) is None:
        raise _absent(module, user, install)
    return import_module(module)


def package_folder(module: str, user: str, install: str) -> Path:
    """The folder of a package with data, which is not imported. Arguments and errors as of `import_optional`."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise _absent(module, user, install)
    return Path(spec.origin).parent


def _absent(module: str, user: str, install: str) -> ModelError:
    return ModelError(f"{user} needs the package {module}, which is absent. Run: pip install {install}")
