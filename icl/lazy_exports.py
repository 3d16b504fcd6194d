"""Public names of a package, imported at their first use, and imports of the toolkit's own packages.

The five packages have common names (`prompts`, `experiments`, ...), and a project may have a folder or a file of such a
name. `import icl` therefore decides where the other four are found: next to `icl`, whatever else is on the path. A
module of the project that this hides is an error that names the folder. A package of the project that was imported
before `icl` is an error too.
"""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("icl", "prompts", "retrievers", "decoding", "experiments")
ROOT = Path(__file__).resolve().parents[1]


class HiddenModuleError(ModuleNotFoundError):
    """A module of a project cannot be imported, because its package has the name of one of the toolkit."""


class OwnPackages(MetaPathFinder):
    """Finds the toolkit's packages next to `icl`, before any folder on the path."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, module = fullname.partition(".")
        if package not in PACKAGES:
            return None
        spec = PathFinder.find_spec(fullname, path if module else [str(ROOT)])
        if spec is None and module and (folder := _hidden_folder(package, module)):
            file = f"{package}/{module.replace('.', '/')}.py"
            raise HiddenModuleError(
                f"'{fullname}' is not a module of mm-icl, whose package '{package}' hides the folder {folder}. Rename "
                f"the folder. A config can name a component by its file: {file}:Name.",
                name=fullname,
            )
        return spec


def _hidden_folder(package: str, module: str) -> Path | None:
    """The folder on the path that has the module, in a package of the same name as one of the toolkit."""
    place = module.replace(".", "/")
    folders = [Path(entry or ".").absolute() / package for entry in sys.path]
    has_module = (folder for folder in folders if (folder / f"{place}.py").is_file() or (folder / place).is_dir())
    return next(has_module, None)


def find_own_packages_first() -> None:
    """Makes Python find the toolkit's packages next to `icl`."""
    if not any(isinstance(finder, OwnPackages) for finder in sys.meta_path):
        sys.meta_path.insert(0, OwnPackages())


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
        if not spec.origin or Path(spec.origin).resolve() != ROOT / name / "__init__.py":
            raise ImportError(
                f"'{name}' is {spec.origin or 'a folder without __init__.py'}, which shadows the package '{name}' of "
                "mm-icl. Rename it, or run from another folder."
            )


def lazy_exports(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """The `__getattr__`, `__dir__` and `__all__` of a package that imports its names at their first use.

    The names stand in `__init__.pyi` beside the package's `__init__.py`, where type checkers read them too. Names that
    its `__all__` does not list are for the toolkit's own methods.
    """
    stub = Path(str(sys.modules[package].__file__)).with_suffix(".pyi")
    sources, public = read_stub(stub.read_text(encoding="utf-8"))

    def get_attribute(name: str) -> Any:
        if name not in sources:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        check_packages()
        if sources[name] == package:
            return importlib.import_module(f"{package}.{name}")
        return getattr(_imported(sources[name]), name)

    def list_names() -> list[str]:
        return sorted({"__all__", "__doc__", "__name__", *public})

    return get_attribute, list_names, public


_imported = cache(importlib.import_module)  # metrics import names in each call


def read_stub(text: str) -> tuple[dict[str, str], list[str]]:
    """(name -> the module that it is imported from, `__all__`) of a stub of imports."""
    sources, public = dict[str, str](), list[str]()
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom):
            sources |= {alias.name: str(node.module) for alias in node.names}
        elif isinstance(node, ast.Assign):
            public = ast.literal_eval(node.value)
    return sources, public
