"""A class or function by its path: `my_pkg.my_mod:Mine`, or `studies/mine.py:Mine` for a file of one's own.

A file is loaded under a name made of its place and its content, so an edited file is another module: what runs is what
`path_of` and `code_of` say of it.
"""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from traceback import extract_tb
from typing import Any

from icl.errors import ConfigError, ICLError, did_you_mean

SEARCH_FOLDERS: ContextVar[tuple[Path, ...]] = ContextVar("SEARCH", default=())
_CODE = "__icl_code__"


@contextmanager
def component_search_folder(folder: Path) -> Iterator[None]:
    """Relative component files are looked up in this folder too, after the working directory."""
    token = SEARCH_FOLDERS.set((folder, *SEARCH_FOLDERS.get()))
    try:
        yield
    finally:
        SEARCH_FOLDERS.reset(token)


def load_class(target: str, where: str = "") -> type[Any]:
    """Raises ConfigError with the nearest name of the module."""
    found: type[Any] = _attribute(target, where, "class", lambda thing: isinstance(thing, type))
    return found


def load_function(target: str, where: str = "") -> Callable[..., Any]:
    """Raises ConfigError with the nearest name of the module."""
    found: Callable[..., Any] = _attribute(target, where, "function", callable)
    return found


def import_path(thing: Any) -> str:
    """'my_pkg.my_mod:Mine', or 'mine.py:Mine' wherever that file lies: its code tells it from others."""
    module = sys.modules.get(thing.__module__)
    path = getattr(module, "__file__", None)
    return f"{Path(path).name if path and hasattr(module, _CODE) else thing.__module__}:{thing.__qualname__}"


def code_digest(thing: Any) -> str:
    """Digest of the file that the class or function was loaded from."""
    module = sys.modules.get(thing.__module__)
    path = getattr(module, "__file__", None)
    known: str | None = getattr(module, _CODE, None)
    return known or (hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12] if path else "interactive")


def location(where: str) -> str:
    """The place that a message begins with, where there is one."""
    return f"{where}: " if where else ""


def _attribute(target: str, where: str, what: str, fits: Callable[[Any], bool]) -> Any:
    module_name, _, attribute = target.rpartition(":")
    module = _from_file(module_name, where) if module_name.endswith(".py") else _from_module(module_name, where)
    found = getattr(module, attribute, None)
    if not fits(found):
        own = [n for n, v in vars(module).items() if fits(v) and getattr(v, "__module__", None) == module.__name__]
        raise ConfigError(f"{location(where)}{module_name} has no {what} '{attribute}'.{did_you_mean(attribute, own)}")
    return found


def _from_module(name: str, where: str) -> Any:
    if not name or name.startswith("."):
        raise ConfigError(f"{location(where)}'{name}:' begins no path of a component: 'module:name' or 'file.py:name'.")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            raise ConfigError(f"{location(where)}there is no module '{name}'. Is its package installed?") from error
        raise ConfigError(
            f"{location(where)}{name} needs the package '{error.name}', which is not installed."
        ) from error
    except (Exception, SystemExit) as error:
        raise _unloadable(name, error, where) from error


def _from_file(name: str, where: str) -> Any:
    tried = (
        [Path(name)] if Path(name).is_absolute() else [folder / name for folder in (Path.cwd(), *SEARCH_FOLDERS.get())]
    )
    path = next((p for p in tried if p.is_file()), None)
    if path is None:
        raise ConfigError(
            f"{location(where)}there is no file {name} (looked in {', '.join(str(p.parent) for p in tried)})."
        )
    code = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    alias = f"icl_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}_{code}_{path.stem}"
    if alias not in sys.modules:  # an edited file is another module: what runs is what `describe` says
        spec = importlib.util.spec_from_file_location(alias, path)
        if spec is None or spec.loader is None:
            raise ConfigError(f"{location(where)}{path} cannot be loaded as Python.")
        module = importlib.util.module_from_spec(spec)
        module.__dict__[_CODE] = code
        sys.modules[alias] = module
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[alias]
            if isinstance(error, Exception | SystemExit) and not isinstance(error, ICLError):
                raise _unloadable(str(path), error, where) from error
            raise
    return sys.modules[alias]


def _unloadable(name: str, error: BaseException, where: str) -> ConfigError:
    """Code of the user's that does not load, with the line of the file that stopped it."""
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == name]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    said = f"{type(error).__name__}: {error}".rstrip(".")
    return ConfigError(f"{location(where)}{name} cannot be loaded{f' (line {line})' if line else ''}: {said}.")
