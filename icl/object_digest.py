"""Digests of classes and functions that a notebook cell, a REPL or another function defines, not a file.

The digest covers everything that the code can read: bytecode, constants, defaults, closures, class attributes, and the
global names that the code uses, recursively. An edited cell is therefore another component, and so is an edited helper
in another cell. What lies in a file is known by the digest of the file.
"""

import hashlib
import pickle
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import cached_property, partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from icl.errors import ConfigError

MAX_VALUE_BYTES = 2**28
"""Larger values that code reads from a closure or a global name are refused: a digest would take seconds."""

FileDigest = Callable[[Any], "str | None"]


def object_digest(thing: Any, file_digest: FileDigest) -> str:
    """12 hex digits that change with the code and with every value that the code reads.

    Args:
        thing: A class, a function or another callable.
        file_digest: Gives the text that identifies a class or function by its file, None if no file defines it. For a
            module it gives the digest of its file, None if its edits do not count.

    Raises:
        ConfigError: The code reads a value that has no digest, such as an open file or a model.
    """
    digest = hashlib.sha256()
    for piece in _Walk(file_digest, str(getattr(thing, "__qualname__", type(thing).__qualname__))).pieces(thing):
        digest.update(piece)
        digest.update(b"\0")
    return digest.hexdigest()[:12]


class _Walk:
    """Visits what a class or function consists of, each object once."""

    def __init__(self, file_digest: FileDigest, name: str) -> None:
        self.file_digest, self.name = file_digest, name
        self.visited: dict[int, Any] = {}  # keeps the objects alive, so ids stay unique

    def pieces(self, thing: Any, where: str = "") -> Iterator[bytes]:
        if isinstance(thing, str | bytes | int | float | complex | bool | type(None) | type(...)):
            yield f"{type(thing).__name__}:{thing!r}".encode()
        elif id(thing) in self.visited:
            yield b"visited"
        else:
            self.visited[id(thing)] = thing
            yield type(thing).__name__.encode()
            yield from self._compound(thing, where)

    def _compound(self, thing: Any, where: str) -> Iterator[bytes]:
        if isinstance(thing, tuple | list):
            for item in thing:
                yield from self.pieces(item, where)
        elif isinstance(thing, set | frozenset):
            yield from sorted(b"".join(self.pieces(item, where)) for item in thing)
        elif isinstance(thing, dict):
            for key, value in thing.items():
                yield from self.pieces(key, where)
                yield from self.pieces(value, f"{where}[{key!r}]")
        elif isinstance(thing, CodeType):
            yield from self.pieces((thing.co_code, thing.co_names, thing.co_varnames, thing.co_freevars), where)
            yield from self.pieces(thing.co_consts, where)
        elif isinstance(thing, ModuleType):
            yield f"{thing.__name__}{self.file_digest(thing) or ''}".encode()
        elif isinstance(thing, BuiltinFunctionType):
            yield thing.__qualname__.encode()
        elif isinstance(thing, FunctionType | type):
            yield from self._definition(thing, where)
        else:
            yield from self._wrapped(thing, where)

    def _definition(self, thing: Any, where: str) -> Iterator[bytes]:
        in_file = self.file_digest(thing)
        if in_file is not None:
            yield in_file.encode()
        if isinstance(thing, type) and (in_file is None or "<locals>" in thing.__qualname__):
            yield from self._class(thing, where)
        elif isinstance(thing, FunctionType) and (in_file is None or thing.__closure__ or "<" in thing.__qualname__):
            yield from self._function(thing, where)

    def _class(self, cls: type[Any], where: str) -> Iterator[bytes]:
        yield cls.__qualname__.encode()
        for base in cls.__bases__:
            yield from self.pieces(base, where)
        if is_dataclass(cls):
            for field in fields(cls):
                yield from self.pieces((field.name, str(field.type)), where)
                yield from self.pieces(_default(field.default), f"the default of {field.name}")
                yield from self.pieces(_default(field.default_factory), f"the default of {field.name}")
        for name, value in sorted(vars(cls).items()):
            if name not in _DERIVED and not (name in _GENERATED and _is_generated(value)):
                yield name.encode()
                yield from self.pieces(value, f"{cls.__qualname__}.{name}")

    def _function(self, function: FunctionType, where: str) -> Iterator[bytes]:
        yield from self.pieces(function.__code__, where)
        yield from self.pieces((function.__defaults__, function.__kwdefaults__), where)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if name != "__class__":
                yield from self.pieces(_cell_contents(cell), name)
        if self.file_digest(function) is None:
            for name in sorted(_global_names(function.__code__)):
                if name in function.__globals__:
                    yield name.encode()
                    yield from self.pieces(function.__globals__[name], name)

    def _wrapped(self, thing: Any, where: str) -> Iterator[bytes]:
        if isinstance(thing, property):
            yield from self.pieces((thing.fget, thing.fset), where)
        elif isinstance(thing, staticmethod | classmethod):
            yield from self.pieces(thing.__func__, where)
        elif isinstance(thing, cached_property):
            yield from self.pieces(thing.func, where)
        elif isinstance(thing, MethodType):
            yield from self.pieces((thing.__func__, thing.__self__), where)
        elif isinstance(thing, partial):
            yield from self.pieces((thing.func, thing.args, thing.keywords), where)
        elif is_dataclass(thing) and not isinstance(thing, type):
            yield from self.pieces(type(thing), where)
            yield from self.pieces({field.name: getattr(thing, field.name) for field in fields(thing)}, where)
        else:
            yield self._pickled(thing, where)

    def _pickled(self, thing: Any, where: str) -> bytes:
        output = _BoundedHash()
        try:
            pickle.Pickler(output, protocol=4).dump(thing)
        except Exception as error:  # a class of anybody may raise anything
            raise ConfigError(
                f"{self.name} reads {where or 'a value'}, a {type(thing).__name__} that has no digest ({error}), so "
                "an edit would go unnoticed. Make it a parameter, or put the component into a file."
            ) from error
        return output.digest.digest()


_DERIVED = frozenset(
    (
        *("__module__", "__dict__", "__weakref__", "__doc__", "__annotations__", "__match_args__", "__hash__"),
        *("__dataclass_fields__", "__dataclass_params__", "__abstractmethods__", "_abc_impl", "__slots__"),
        *("__parameters__", "__orig_bases__", "__protocol_attrs__", "__static_attributes__", "__firstlineno__"),
        *("__qualname__", "component"),
    )
)
"""Attributes that follow from others, or from the place of the definition."""

_GENERATED = frozenset(
    ("__init__", "__repr__", "__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__setattr__", "__delattr__")
)


class _BoundedHash:
    """A file that pickle writes to. It keeps only the hash."""

    def __init__(self) -> None:
        self.digest, self.size = hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.size += size
        if self.size > MAX_VALUE_BYTES:
            raise ValueError(f"it has more than {MAX_VALUE_BYTES // 2**20} MiB")
        self.digest.update(data)
        return size


def _is_generated(value: Any) -> bool:
    """Whether `dataclass` wrote a method, which then follows from the fields."""
    return isinstance(value, FunctionType) and value.__code__.co_filename == "<string>"


def _default(value: Any) -> Any:
    """A dataclass field's default; None for the marker of a missing one."""
    return None if type(value).__name__ == "_MISSING_TYPE" else value


def _cell_contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is assigned later
        return None


def _global_names(code: CodeType) -> set[str]:
    """Names that a function and the functions inside it may look up in the module."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_global_names, inner))
