"""Task files of lmms-eval (YAML), read without running anything.

A file names functions of the Python files next to it (`!function utils.doc_to_text`), includes other files, and may
have Jinja templates. `TaskFile.code` lists all of these, and `TaskFile.digest` changes with every file that they come
from.
"""

import hashlib
import os.path
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, FiniteFloat, TypeAdapter, ValidationError

from icl import ConfigError, did_you_mean, ruamel, search_candidates

FUNCTION = "!function "
"""Start of the text that stands for a function."""

INSTALL = "pip install 'lmms-eval>=0.7.3,<0.8' 'filelock<4'"
"""The package needs an old filelock: its evaluator imports a module that filelock 4 does not have."""

PICKLE_BUILDERS = ("pandas",)
"""Values of `dataset_path` that read pickles, which run code."""

SUFFIXES = (".yaml", ".yml")
_TASK = re.compile(r"^task\s*:[ \t]*['\"]?([^\s'\"#]+)['\"]?[ \t]*(?:#.*)?$", re.MULTILINE)
_GROUP = re.compile(r"^(?:group|tag)\s*:[ \t]*['\"]?([^\s'\"#]+)", re.MULTILINE)
_TEMPLATE = ("{{", "{%")


class FunctionName(str):
    """The name of a function as a task file writes it, with the folder of that file, which it is relative to."""

    folder: Path

    def __new__(cls, name: str, folder: Path) -> "FunctionName":
        function = super().__new__(cls, name)
        function.folder = folder
        return function


@dataclass(frozen=True)
class TaskFile:
    """A task file with those that it includes.

    Attributes:
        keys: The keys of all files together. A function is the text '!function utils.name', a `FunctionName`.
        files: The YAML files, the task's own first.
    """

    path: Path
    keys: Mapping[str, Any]
    files: tuple[Path, ...]

    @property
    def title(self) -> str:
        return str(self.keys.get("task") or self.path.stem)

    @property
    def code(self) -> tuple[str, ...]:
        """What runs as code, such as 'utils.doc_to_text' or 'the template of doc_to_target'. Each once, sorted."""
        return tuple(sorted(set(_code(self.keys, ""))))

    def functions(self, *keys: str) -> tuple[FunctionName, ...]:
        """The functions that these keys name at any depth, such as 'utils.process_results'. Without keys, all."""
        return tuple(
            FunctionName(text.removeprefix(FUNCTION), text.folder)
            for key in keys or self.keys
            for text in _functions(self.keys.get(key))
        )

    @property
    def digest(self) -> str:
        """12 hex digits of the YAML files, of every Python file next to them, and of the version of lmms-eval."""
        python_files = {path for file in self.files for path in file.parent.glob("*.py") if path.is_file()}
        named = {function_file(function) for function in self.functions()}
        digest = hashlib.sha256(_installed_version().encode())
        for path in (*self.files, *sorted(path for path in {*python_files, *named} if path is not None)):
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:12]

    def check_trust(self, trust: bool) -> None:
        """Raises ConfigError if the file runs code and the user has not agreed to it."""
        if self.code and not trust:
            named = ", ".join(self.code[:6]) + (f" and {len(self.code) - 6} more" if len(self.code) > 6 else "")
            raise ConfigError(f"{self.path} runs code: {named}. Read it, then set trust: true.")


def find_task_file(task: str, folders: Sequence[Path] | None = None) -> TaskFile:
    """The task of a name, such as 'mme', or of a file.

    Args:
        task: The name of a task of the installed lmms-eval, or the path of a YAML file.
        folders: The folders to which the path may be relative, before the working directory.

    Raises:
        ConfigError: There is no such task or file, or the file cannot be read.
    """
    if Path(task).suffix in SUFFIXES:
        places = search_candidates(task, folders)
        path = next((place for place in places if os.path.isfile(place)), None)
        if path is None:
            looked_in = ", ".join(f"{place.parent!s:.200}" for place in places)
            raise ConfigError(f"there is no task file {task:.200} (looked in {looked_in}).")
        return read_task_file(path.resolve())
    by_name, members = _installed_tasks()
    if task in by_name:
        return read_task_file(by_name[task])
    if task in members:
        some = ", ".join(sorted(members[task])[:8])
        raise ConfigError(f"'{task}' is a group of lmms-eval's tasks. Name one of them, such as {some}.")
    hint = did_you_mean(task, by_name)
    raise ConfigError(f"lmms-eval has no task '{task}'.{hint} Name one of its {len(by_name):,} tasks, or a .yaml file.")


def read_task_file(path: Path) -> TaskFile:
    """The keys of a file and of the files that it includes. Raises ConfigError."""
    keys, files = _read(path, ())
    return TaskFile(path, keys, files)


def function_file(function: FunctionName) -> Path | None:
    """The Python file of a function: next to the file that names it, or in the package lmms_eval. None if elsewhere."""
    module = function.rpartition(".")[0]
    return module_file(module, function.folder / f"{module}.py")


def module_file(module: str, local_file: Path) -> Path | None:
    """The local file if it exists, else the module's file in the package lmms_eval. None if elsewhere."""
    inside = installed_folder() if module.startswith("lmms_eval.") else None
    installed = [] if inside is None else [inside.joinpath(*module.split(".")[1:]).with_suffix(".py")]
    return next((path for path in (local_file, *installed) if os.path.isfile(path)), None)


def installed_folder() -> Path | None:
    """The folder of the package lmms_eval, which is not imported. None if it is not installed."""
    spec = find_spec("lmms_eval")
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


def require_installed() -> Path:
    """The folder of the package lmms_eval. Raises ConfigError if it is not installed."""
    folder = installed_folder()
    if folder is None:
        raise ConfigError(f"tasks of lmms-eval need its package, which is not installed here: {INSTALL}")
    return folder


def _read(path: Path, including: tuple[Path, ...]) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """The merged keys of a file, and all files that they come from."""
    if path in including:
        raise ConfigError(f"{path} includes itself.")
    own = _parse(path)
    include = own.pop("include", None) or []
    merged: dict[str, Any] = {}
    files = [path]
    for other in reversed([include] if isinstance(include, str) else include):
        place = Path(other) if os.path.isfile(other) else path.parent / other
        if not os.path.isfile(place):
            raise ConfigError(f"{path} includes {other:.200}, and there is no such file.")
        keys, more = _read(place.resolve(), (*including, path))
        merged |= keys
        files += more
    return merged | own, tuple(files)


def _parse(path: Path) -> dict[str, Any]:
    """The keys of one file. Tags other than !function are refused, since lmms-eval's own reader may run them."""
    try:
        keys = _yaml(path.parent).load(path.read_text(encoding="utf-8"))
    except (ruamel.yaml.error.YAMLError, ValueError, TypeError, LookupError, AssertionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or str(error).split("\n", maxsplit=1)[0]
        raise ConfigError(f"{path}{line} cannot be read as the YAML of a task: {problem}.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: lists or mappings are nested too deeply. A task needs a few levels.") from error
    if not isinstance(keys, dict):
        raise ConfigError(f"{path} is not a task: it has no keys.")
    check_keys(keys, path)
    return keys


def _yaml(folder: Path) -> Any:
    """A safe loader of YAML 1.1 (lmms-eval's version) in which a function is a text.

    Of a repeated key the last value counts, as in lmms-eval: otherwise a function could hide behind another value.
    """
    yaml: Any = ruamel.yaml.YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    yaml.Constructor = type("Constructor", (yaml.Constructor,), {"check_mapping_key": lambda *_: True})
    yaml.Constructor.add_constructor(
        "!function", lambda constructor, node: FunctionName(FUNCTION + constructor.construct_scalar(node), folder)
    )
    return yaml


def _functions(value: Any) -> Iterator[FunctionName]:
    """The texts that stand for functions in a value, at any depth."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _functions(item)
    elif isinstance(value, FunctionName):
        yield value


def _code(value: Any, key: str) -> Iterator[str]:
    """What a key runs as code: functions, classes, templates, and the script of a data set."""
    if key == "class" or (key in ("builder_script", "trust_remote_code", "From_YouTube") and value):
        yield f"{key}: {value}".replace(FUNCTION, "")
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _code(item, str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _code(item, key)
    elif isinstance(value, FunctionName):
        yield value.removeprefix(FUNCTION)
    elif isinstance(value, str) and any(mark in value for mark in _TEMPLATE):
        yield f"the template of {key}"
    elif key == "dataset_path" and isinstance(value, str) and (value.endswith(".py") or value in PICKLE_BUILDERS):
        yield f"{key}: {value}"


@lru_cache
def _installed_tasks() -> tuple[Mapping[str, Path], Mapping[str, tuple[str, ...]]]:
    """Name of a task -> its file, and name of a group -> some of its tasks."""
    by_name: dict[str, Path] = {}
    members: dict[str, tuple[str, ...]] = {}
    for path in sorted((require_installed() / "tasks").rglob("*.yaml")):
        text = path.read_text(encoding="utf-8", errors="replace")
        group = match[1] if (match := _GROUP.search(text)) else ""
        if match := _TASK.search(text):
            by_name.setdefault(match[1], path)
            members[group] = (*members.get(group, ()), match[1])
        elif group:
            listed = re.findall(r"^\s*-\s*(?:task\s*:\s*)?['\"]?([\w.-]+)['\"]?\s*$", text, re.MULTILINE)
            members[group] = (*members.get(group, ()), *listed)
    members.pop("", None)
    return by_name, members


def _installed_version() -> str:
    try:
        return version("lmms-eval")
    except PackageNotFoundError:
        return ""


MAX_VALUES = 100_000
"""The limit stops aliases of aliases, which grow exponentially."""

MAX_INTEGER_BITS = 1024
"""No key takes a larger number. Python does not print numbers of more than 4,300 digits."""


class _Metric(BaseModel):
    """An entry of `metric_list`. The released tasks have empty ones, too."""

    metric: str
    aggregation: str | None = None
    higher_is_better: bool | None = None


_Files = str | list[str]
_TYPES: Mapping[tuple[str, ...], tuple[Any, str]] = {
    ("include",): (_Files | None, "a file or a list of files"),
    ("output_type",): (str, "a text, such as generate_until"),
    ("dataset_path",): (str, "a text, such as lmms-lab/POPE"),
    ("dataset_kwargs",): (dict[Any, Any] | None, "a mapping"),
    ("dataset_kwargs", "data_files"): (_Files | dict[str, _Files] | None, "files, such as {test: test.parquet}"),
    ("generation_kwargs",): (dict[Any, Any] | None, "a mapping, such as {max_new_tokens: 16}"),
    ("generation_kwargs", "max_new_tokens"): (int | FiniteFloat | None, "a finite number"),
    ("metric_list",): (list[_Metric | None] | None, "a list of mappings, such as [{metric: exact_match}]"),
}
"""Path of a key -> its type and the words for it. A key stands after the key that contains it."""


def check_keys(keys: Mapping[Any, Any], path: Path) -> None:
    """Raises ConfigError for a value of another type, for one that contains itself, and for too many or too large ones.

    Args:
        keys: The keys of one file.
        path: The file, for the message.
    """
    _check_size(keys, path)
    for place, (kind, words) in _TYPES.items():
        holder: Any = keys
        for key in place[:-1]:
            holder = holder.get(key) or {}
        if place[-1] not in holder:
            continue
        value = holder[place[-1]]
        try:
            TypeAdapter(kind).validate_python(value, strict=True)
        except ValidationError as error:
            raise ConfigError(f"{path}: {'.'.join(place)} is {value!r:.60}, and must be {words}.") from error


def _check_size(keys: Mapping[Any, Any], path: Path) -> None:
    waiting: list[tuple[Any, str, frozenset[int]]] = [
        (value, f"{key!s:.60}", frozenset()) for key, value in keys.items()
    ]
    count = 0
    while waiting:
        value, key, above = waiting.pop()
        count += 1
        if id(value) in above:
            raise ConfigError(f"{path}: {key} contains itself by an alias. Write its values out.")
        if count > MAX_VALUES:
            raise ConfigError(f"{path} has more than {MAX_VALUES:,} values, counting aliases. Remove some.")
        if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
            raise ConfigError(f"{path}: {key} has too large a number. Numbers have at most 308 digits.")
        if isinstance(value, Mapping | list | tuple | set):
            inner: Sequence[Any] = list(value.values()) if isinstance(value, Mapping) else list(value)
            waiting += [(item, key, above | {id(value)}) for item in inner]
