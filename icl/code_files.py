"""The files that the code of a component depends on, and their digest.

They are the component's own file, the modules that it imports from its own folder or package, the imports of these in
turn, and the data of these modules: each file that a string in a module names, in the module's folder or below, if the
module uses `__file__` and does not write the file (by `open`, `write_text` or `write_bytes`). Installed packages do not
count. A file that depends on no other has the digest of its bytes.
"""

import ast
import hashlib
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from icl.errors import ICLWarning
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
