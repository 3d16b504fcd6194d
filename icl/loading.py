"""Loads a class or function by its path: `my_pkg.my_mod:Mine`, or `studies/mine.py:Mine` for a file.

A file is loaded under a module name made of its place and its digest. A file that was edited, or that depends on an
edited one, is therefore another module, and the code that runs is the code that `import_path` and `code_digest` name.
"""

import hashlib
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import SourceFileLoader
from pathlib import Path
from traceback import extract_tb
from types import CodeType, ModuleType
from typing import Any

from icl import ConfigError, ICLError, did_you_mean, refuse_untrusted
from icl.code_files import code_digest_of_file, forget_edited_modules, is_installed, object_digest
from icl.lazy_exports import PACKAGES, HiddenModuleError

logger = logging.getLogger(__name__)

SEARCH_FOLDERS: ContextVar[tuple[Path, ...]] = ContextVar("SEARCH_FOLDERS", default=())
_CODE = "__icl_code__"


class NoToolkitModuleError(ConfigError):
    """A component path names a module of the toolkit that does not exist."""


@contextmanager
def component_search_folder(folder: Path) -> Iterator[None]:
    """Look up relative component and data files in this folder first, then in the working directory."""
    token = SEARCH_FOLDERS.set((folder, *SEARCH_FOLDERS.get()))
    try:
        yield
    finally:
        SEARCH_FOLDERS.reset(token)


def search_candidates(name: str, folders: Sequence[Path] | None = None) -> list[Path]:
    """The places of a file or folder that a config names, in the order of the search.

    Args:
        name: An absolute path, or one relative to the experiment file or to the working directory.
        folders: The folders to search before the working directory. By default, the folders that
            `component_search_folder` sets.
    """
    path = Path(os.path.expanduser(name))  # pathlib's `expanduser` raises for an unknown user
    if path.is_absolute():
        return [path]
    searched = SEARCH_FOLDERS.get() if folders is None else folders
    return [folder / path for folder in dict.fromkeys((*searched, Path.cwd()))]


def load_class(target: str, where: str = "") -> type[Any]:
    """The class at a path.

    Raises:
        ConfigError: There is no such module or class. The message suggests the nearest name of the module. Or a run
            directory that is not trusted names it.
    """
    refuse_untrusted(f"the code {target} is not imported", location(where))
    return load_registered(target, where)


def load_registered(target: str, where: str = "") -> type[Any]:
    """The class of a component that is installed, which also a run directory that is not trusted may name."""
    cls: type[Any] = _load_attribute(target, where, "class", lambda value: isinstance(value, type))
    return cls


def load_function(target: str) -> Callable[..., Any]:
    """The function at a path.

    Raises:
        ConfigError: There is no such module or function. The message suggests the nearest name of the module. Or a run
            directory that is not trusted names it.
    """
    refuse_untrusted(f"the code {target} is not imported")
    function: Callable[..., Any] = _load_attribute(target, "", "function", callable)
    return function


def is_builtin(cls: type[Any]) -> bool:
    """Whether a class belongs to the toolkit. Components of the toolkit have the same names everywhere."""
    return cls.__module__.split(".")[0] in PACKAGES


def import_path(thing: Any) -> str:
    """The path of a class or function: 'my_pkg.my_mod:Mine', or 'mine.py:Mine' without the folder of the file."""
    if not hasattr(thing, "__qualname__"):  # an object with a __call__, such as functools.partial
        return import_path(type(thing))
    module = sys.modules.get(thing.__module__)
    path = getattr(module, "__file__", None)
    return f"{Path(path).name if path and hasattr(module, _CODE) else thing.__module__}:{thing.__qualname__}"


def code_digest(thing: Any) -> str:
    """12 hex digits that change with the code of a class or function.

    The digest covers the file that defines it and the files on which this file depends (`icl.code_files`). Without a
    file, as in a notebook, and for lambdas and what a function defines, it covers the code and the values that the code
    reads (`icl.code_files`).

    Raises:
        ConfigError: The code reads a value that has no digest.
    """
    name = getattr(thing, "__qualname__", "<>")
    by_file = _file_digest(thing)
    return by_file if by_file is not None and "<" not in name else object_digest(thing, _file_identity)


def _file_digest(thing: Any) -> str | None:
    """12 hex digits of the file that defines a class or function, or of a module; None without a file."""
    name = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None)
    module = sys.modules.get(name or "")
    if module is None or (module.__name__ == "__main__" and hasattr(sys, "ps1")):  # a cell of a notebook, or a REPL
        return None
    if hasattr(module, _CODE):
        digest: str = getattr(module, _CODE)
        return digest
    path = getattr(module, "__file__", None)
    return code_digest_of_file(Path(path), module.__name__) if path else None


def _file_identity(thing: Any) -> str | None:
    """The path and the code digest of what a file defines; a name alone for Python's own classes and functions.

    For a module it is the code digest, None for one that is installed.
    """
    if isinstance(thing, ModuleType):
        path = getattr(thing, "__file__", None)
        is_own = path and not is_installed(Path(path)) and thing.__name__.partition(".")[0] not in PACKAGES
        return _file_digest(thing) if is_own else None
    module = getattr(thing, "__module__", None) or ""
    if module in sys.stdlib_module_names or module.partition(".")[0] in (*sys.stdlib_module_names, *PACKAGES):
        return None if module == "__main__" else import_path(thing)
    digest = _file_digest(thing)
    return None if digest is None else f"{import_path(thing)} {digest}"


def file_code(target: str) -> str | None:
    """The code digest of the file of a component's path, without importing it; None if it is not a file here."""
    path = _find_file(target.rpartition(":")[0])
    return None if path is None else code_digest_of_file(path)


def location(where: str) -> str:
    """The beginning of an error message: 'grid.yaml:9: ', or the empty string for an unknown place."""
    return f"{where}: " if where else ""


def _load_attribute(target: str, where: str, what: str, accepts: Callable[[Any], bool]) -> Any:
    module_name, _, name = target.rpartition(":")
    module = _load_file(module_name, where) if module_name.endswith(".py") else _load_module(module_name, where)
    value = getattr(module, name, None)
    if not accepts(value):
        if module_name == "__main__":
            raise ConfigError(
                f"{location(where)}{name} was defined in a script or a notebook, where no other process finds it. Read "
                f"the run there (icl.load_run), or move {name} to a file, name it as file.py:{name} and run again."
            )
        candidates = [
            n for n, v in vars(module).items() if accepts(v) and getattr(v, "__module__", "") == module.__name__
        ]
        raise ConfigError(f"{location(where)}{module_name} has no {what} '{name}'.{did_you_mean(name, candidates)}")
    return value


def _load_module(name: str, where: str) -> Any:
    if not name or name.startswith("."):
        raise ConfigError(
            f"{location(where)}'{name}:' is not the start of a component path. Write 'module:name' or 'file.py:name'."
        )
    try:
        return importlib.import_module(name)
    except HiddenModuleError as error:
        raise ConfigError(f"{location(where)}{error}") from error
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            kind = NoToolkitModuleError if name.partition(".")[0] in PACKAGES else ConfigError
            raise kind(f"{location(where)}there is no module '{name}'. Is its package installed?") from error
        raise ConfigError(
            f"{location(where)}{name} needs the package '{error.name}', which is not installed."
        ) from error
    except (Exception, SystemExit) as error:
        raise _load_error(name, error, where) from error


def _find_file(name: str) -> Path | None:
    return next((path for path in search_candidates(name) if os.path.isfile(path)), None)


class _SourceLoader(SourceFileLoader):
    """Runs the bytes whose digest names the module.

    Python's own loader takes bytecode that it has stored for a file of the same size and second of change. A file that
    was edited twice in a second would run its earlier code.
    """

    def __init__(self, name: str, path: Path, source: bytes) -> None:
        super().__init__(name, str(path))
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.source, self.path)
        return code


def _load_file(name: str, where: str) -> Any:
    path = _find_file(name)
    if path is None:
        looked_in = ", ".join(str(p.parent) for p in search_candidates(name))
        raise ConfigError(f"{location(where)}there is no file {name} (looked in {looked_in}).")
    source = path.read_bytes()
    code = code_digest_of_file(path)
    alias = f"icl_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}_{code}_{path.stem}"
    if alias not in sys.modules:
        logger.info("loading components of %s (code %s)", path, code)
        loader = _SourceLoader(alias, path, source)
        spec = importlib.util.spec_from_file_location(alias, path, loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        module.__dict__[_CODE] = code
        sys.modules[alias] = module
        forget_edited_modules(path)
        try:
            with _imports_from(path.parent):
                loader.exec_module(module)
            code_digest_of_file(path, alias)  # notes what the modules are, for the next call
        except BaseException as error:
            del sys.modules[alias]
            if isinstance(error, Exception | SystemExit) and not isinstance(error, ICLError):
                raise _load_error(str(path), error, where) from error
            raise
    return sys.modules[alias]


@contextmanager
def _imports_from(folder: Path) -> Iterator[None]:
    """Lets code import modules from its own folder, as a script does. The toolkit's own packages keep their names."""
    for package in PACKAGES:
        importlib.import_module(package)
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:  # the code may have changed the list
            sys.path.remove(str(folder))


def _load_error(name: str, error: BaseException, where: str) -> ConfigError:
    """The error for user code that does not load, with the line of the file that stopped it."""
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == name]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    message = f"{type(error).__name__}: {error}".rstrip(".")
    return ConfigError(f"{location(where)}{name} cannot be loaded{f' (line {line})' if line else ''}: {message}.")
