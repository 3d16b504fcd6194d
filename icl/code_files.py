"""The files that the code of a component depends on, and their digest.

They are the component's own file, the modules that it imports from its own folder or package, the imports of these in
turn, and the data of these modules: each file that a string in a module names, in the module's folder or below, if the
module uses `__file__` and does not write the file (by `open`, `write_text` or `write_bytes`). Installed packages do not
count. A file that depends on no other has the digest of its bytes.

Classes and functions that a notebook cell, a REPL or another function defines have no file. Their digest covers
everything that the code can read: bytecode, constants, defaults, closures, class attributes, and the global names that
the code uses, recursively. An edited cell is therefore another component, and so is an edited helper in another cell.
What lies in a file is known by the digest of the file.
"""

import ast
import hashlib
import os
import pickle
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from icl.errors import ConfigError, ICLWarning
from icl.lazy_exports import PACKAGES

_READ = "__icl_read__"
_names: dict[str, tuple[str, ...]] = {}


class CodeFile(NamedTuple):
    """A file of code or data. module: the name under which the component imports it, '' for data."""

    path: Path
    module: str
    sha: str


@dataclass
class _Read:
    """The text of an imported module and the digests of its data. spec: another object after a reload."""

    spec: Any
    source: bytes
    data: dict[Path, str] = field(default_factory=dict)


def code_digest_of_file(path: Path, module: str = "") -> str:
    """12 hex digits that change with a file of code and with every file that it depends on.

    Args:
        path: The file.
        module: The name of the module, if it is imported. What is imported is then covered as it was at the first
            call, since a later edit does not run. A warning says so.
    """
    main, *files = code_files(path, module)
    others = sorted((Path(os.path.relpath(file.path, main.path.parent)).as_posix(), file.sha) for file in files)
    text = "\n".join((main.sha, *(f"{name} {sha}" for name, sha in others)))
    digest = (hashlib.sha256(text.encode()).hexdigest() if others else main.sha)[:12]
    _names[digest] = (path.name, *(name for name, _ in others))
    return digest


def names_of_files(digest: str) -> tuple[str, ...]:
    """The files of a digest that `code_digest_of_file` gave in this process, the component's own first."""
    return _names.get(digest, ())


def code_files(path: Path, module: str = "") -> Iterator[CodeFile]:
    """A file of code, and each file that it depends on. Takes the arguments of `code_digest_of_file`."""
    path = Path(os.path.abspath(path))
    waiting, visited = [(path, module)], {path}
    while waiting:
        file, name = waiting.pop()
        read = _read(file, name if module else "")
        yield CodeFile(file, name, hashlib.sha256(read.source).hexdigest())
        if is_installed(file):
            continue
        imports, texts = _references(read.source)
        for imported in _imported_files(imports, file, name, path.parent):
            if imported[0] not in visited:
                visited.add(imported[0])
                waiting.append(imported)
        for data in sorted({file.parent / text for text in texts if os.path.isfile(file.parent / text)}):
            sha = _data_sha(data, read)  # also of data that another module names: each module read it at its import
            if data not in visited:
                visited.add(data)
                yield CodeFile(data, "", sha)


def _data_digest(path: Path) -> str:
    """The sha256 of a file, read again only if its size or its time of change differs."""
    stat = path.stat()
    return _sha256(str(path), stat.st_size, stat.st_mtime_ns)


def is_installed(path: Path) -> bool:
    """Whether a file belongs to an installed package or to Python."""
    return bool({"site-packages", "dist-packages"} & {*path.parts}) or path.is_relative_to(sysconfig.get_path("stdlib"))


def forget_edited_modules(path: Path) -> None:
    """Lets the next import of the modules that a file depends on read them again, unless all are as they were read."""
    modules = {file: sys.modules[file.module] for file in code_files(path) if file.module in sys.modules}
    if all(_is_current(module, file.path) for file, module in modules.items()):
        return
    for file, module in modules.items():
        del sys.modules[file.module]
        package, _, name = file.module.rpartition(".")
        if getattr(sys.modules.get(package), name, None) is module:  # else `from package import name` would find it
            delattr(sys.modules[package], name)


def _is_current(module: Any, path: Path) -> bool:
    """Whether a module was imported from this file and `code_digest_of_file` has read what the file has now."""
    read: _Read | None = module.__dict__.get(_READ)
    if read is None or not _is_module_of(module, path) or read.source != path.read_bytes():
        return False
    return all(data.is_file() and _data_digest(data) == sha for data, sha in read.data.items())


def _is_module_of(module: Any, path: Path) -> bool:
    return os.path.realpath(getattr(module, "__file__", None) or "") == os.path.realpath(path)


def _read(path: Path, name: str) -> _Read:
    source = path.read_bytes()
    module = sys.modules.get(name)
    if module is None or not _is_module_of(module, path):
        return _Read(None, source)
    read: _Read | None = module.__dict__.get(_READ)
    if read is None or read.spec is not module.__spec__:
        read = module.__dict__[_READ] = _Read(module.__spec__, source)
    if read.source != source and _patched_source(name) == source:
        read = module.__dict__[_READ] = _Read(module.__spec__, source)
    if read.source != source:
        _warn_of_edit(path, name)
    return read


def _patched_source(name: str) -> bytes | None:
    """The text to which IPython's %autoreload changed a module in place, with the same spec; None without it."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    magics = shell and shell.magics_manager.registry.get("AutoreloadMagics")
    patcher = getattr(getattr(magics, "_reloader", None), "deduper_reloader", None)
    text: str | None = getattr(patcher, "source_by_modname", {}).get(name)
    return None if text is None else text.encode()


def _data_sha(path: Path, read: _Read) -> str:
    sha = _data_digest(path)
    if read.spec is not None and read.data.setdefault(path, sha) != sha:
        _warn_of_edit(path, read.spec.name)
    return read.data.get(path, sha)


def _warn_of_edit(path: Path, module: str) -> None:
    warnings.warn(
        f"{path.name} was edited after this process imported {module}, so its earlier content still counts. Call "
        f"importlib.reload({module}), or start the process again.",
        ICLWarning,
        stacklevel=2,
    )


def _imported_files(
    imports: tuple[tuple[int, str, str], ...], file: Path, name: str, folder: Path
) -> Iterator[tuple[Path, str]]:
    """(file, module) of each import of a module that lies in the component's folder or in a package around the file."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for level, target, member in imports:
        if level:
            root = file.parents[min(level, len(file.parents)) - 1]
            above = ".".join(package.split(".")[: len(package.split(".")) - level + 1])
            candidates = [(root, f"{target}.{member}".strip("."), above), (root, target, above)]
        else:
            top = target.partition(".")[0]
            if top in PACKAGES:
                continue
            roots = [folder, *(parent.parent for parent in file.parents if parent.name == top)]
            candidates = [(root, f"{target}.{member}", "") for root in roots if member]
            candidates += [(root, target, "") for root in roots]
        for root, dotted, prefix in candidates:
            if path := _module_file(root, dotted):
                yield path, f"{prefix}.{dotted}".strip(".")
                break


def _module_file(root: Path, dotted: str) -> Path | None:
    base = root.joinpath(*dotted.split("."))  # an empty name gives the folder itself
    candidates = [base / "__init__.py", *([base.with_name(f"{base.name}.py")] if dotted else [])]
    return next((path for path in candidates if path.is_file()), None)


@lru_cache(maxsize=1024)
def _references(source: bytes) -> tuple[tuple[tuple[int, str, str], ...], tuple[str, ...]]:
    """(level, module, name in it) of each import, and each text that may name data; nothing for what does not parse."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return (), ()
    imports, texts, finds_data = list[tuple[int, str, str]](), _texts(tree), False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                imports += [(0, ".".join(parts[: i + 1]), "") for i in range(len(parts))]
        elif isinstance(node, ast.ImportFrom):
            imports += [(node.level, node.module or "", alias.name) for alias in node.names]
        elif isinstance(node, ast.Name):
            finds_data |= node.id == "__file__"
    if not finds_data:
        return tuple(dict.fromkeys(imports)), ()
    read = texts.difference(*map(_texts, _written_paths(tree)))
    return tuple(dict.fromkeys(imports)), tuple(sorted(filter(_may_name_a_file, read)))


def _texts(tree: ast.AST) -> set[str]:
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp | ast.Call | ast.Constant)]
    return {"/".join(_path_parts(node)).lstrip("/") for node in nodes}


def _written_paths(tree: ast.AST) -> Iterator[ast.expr]:
    """The path of each call that writes a file; for a name that the module assigns once, also what it is assigned."""
    assigned: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                assigned.setdefault(ast.unparse(target), []).append(node.value)
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not _writes(call):
            continue
        for path in (*([call.func.value] if isinstance(call.func, ast.Attribute) else []), *call.args[:1]):
            yield path
            names = [ast.unparse(node) for node in ast.walk(path) if isinstance(node, ast.Name | ast.Attribute)]
            yield from (assigned[name][0] for name in names if len(assigned.get(name, ())) == 1)


def _writes(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name != "open":
        return name in {"write_text", "write_bytes"}
    modes = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    texts = [{*node.value} for node in modes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return any(text <= {*"rwaxbt+"} and text & {*"wax+"} for text in texts)


def _path_parts(node: ast.expr) -> list[str]:
    """The texts at the end of `folder / "data" / "rules.txt"` or of `join(folder, "data", "rules.txt")`."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        last = _path_parts(node.right)
        return [*_path_parts(node.left), *last] if last else []
    if isinstance(node, ast.Call) and not node.keywords:
        return [part for argument in node.args for part in _path_parts(argument)]
    return []


def _may_name_a_file(text: str) -> bool:
    return 0 < len(text) < 256 and text.isprintable() and ".." not in text.split("/")


@lru_cache(maxsize=1024)
def _sha256(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
