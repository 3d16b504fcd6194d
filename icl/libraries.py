"""Libraries that are imported at their first use: `from icl import PIL, torch`.

Modules that a plan or a list of components imports take heavy and optional libraries from here. The stub next to this
file tells type checkers that they are the libraries themselves.
"""

import importlib
from importlib.util import find_spec
from types import ModuleType
from typing import Any

ALIASES = {"alt": "altair", "np": "numpy", "pa": "pyarrow", "pd": "pandas"}
LIBRARIES = (
    "PIL", "av", "datasets", "faiss", "filelock", "httpx2", "huggingface_hub", "jinja2", "openai", "pydantic",
    "pydantic_core", "ray", "rich", "ruamel", "safetensors", "scipy", "torch", "transformers", "vllm",
)  # fmt: skip


class LazyLibrary(ModuleType):
    """A module of a library that is imported when an attribute is read. The attribute may be a module too."""

    def __getattr__(self, name: str) -> Any:
        library = importlib.import_module(self.__name__)
        if not hasattr(library, name) and find_spec(f"{self.__name__}.{name}"):
            return importlib.import_module(f"{self.__name__}.{name}")
        return getattr(library, name)

    def __reduce__(self) -> tuple[Any, ...]:
        """The library itself: code that is sent to another process, such as a cell of a notebook, may name it."""
        return importlib.import_module, (self.__name__,)


globals().update({name: LazyLibrary(ALIASES.get(name, name)) for name in (*ALIASES, *LIBRARIES)})
