"""torch and Pillow, imported at their first use: `from icl import PIL, torch`.

Modules that a plan or a list of components imports take the libraries from here. The stub beside this file tells type
checkers that they are the libraries themselves.
"""

import importlib
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__all__ = ["PIL", "torch"]


class LazyLibrary(ModuleType):
    """A module of a library that is imported when an attribute is read. The attribute may be a module too."""

    def __getattr__(self, name: str) -> Any:
        library = importlib.import_module(self.__name__)
        if not hasattr(library, name) and find_spec(f"{self.__name__}.{name}"):
            return importlib.import_module(f"{self.__name__}.{name}")
        return getattr(library, name)


PIL = LazyLibrary("PIL")
torch = LazyLibrary("torch")
