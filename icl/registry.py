"""One registry for every kind of component; it finds the files by itself.

A component is a frozen dataclass in a module of its own, marked with `@component(kind, name)`. The folders of a kind
are read for that mark as text, so listing imports nothing, and adding a component touches no other file. In a config
it is a bare name (`knn`), a mapping (`{name: knn, by: image}`), or a path to anyone's class (`my_pkg.my_mod:Mine`,
`studies/mine.py:Mine`); packages add names through entry points `kind.name` in the group `icl.components`.
"""

import ast
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from icl.errors import ConfigError, did_you_mean
from icl.loading import code_digest, component_search_folder, import_path, load_class, load_function, location
from icl.renamed_names import new_name, suggest
from icl.validate_finite import find_non_finite

__all__ = [
    "PACKAGES",
    "ComponentEntry",
    "FunctionPath",
    "NestedComponent",
    "build",
    "component",
    "component_search_folder",
    "describe",
    "entries",
    "is_builtin",
    "parameter",
    "resolve",
    "schema",
    "with_article",
]

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "task": ("icl.tasks", "icl.tasks.generated"),
    "model": ("icl.models", "icl.models.hf", "icl.models.vllm"),
    "metric": ("icl.metrics",),
    "edit": ("icl.edits",),
    "embedder": ("retrievers.embedders",),
    "retriever": ("retrievers",),
    "reranker": ("retrievers.rerankers",),
    "orderer": ("prompts.orderers",),
    "transform": ("prompts.transforms",),
    "composer": ("prompts.composers",),
    "strategy": ("decoding.strategies", "decoding.controls"),
    "launcher": ("experiments.launch",),
}
"""kind -> where its components live. A kind is a word of the config and of `icl ls`."""

REQUIRED_MEMBERS: Mapping[str, tuple[str, ...]] = {
    "task": ("title", "queries", "pool"),
    "metric": ("score",),
    "edit": ("bind", "describe", "apply_to_image", "apply_to_pixel_values"),
    "embedder": ("digest", "embed_images", "embed_texts"),
    "retriever": ("needs", "fit"),
    "reranker": ("needs", "fit"),
    "orderer": ("order",),
    "transform": ("transform",),
    "composer": ("compose",),
    "launcher": ("workers", "wait", "check", "start", "again"),
}
"""kind -> what every run asks of its components. A strategy is held against its base class instead."""

BASES: Mapping[str, str] = {"model": "icl.models.base:Model"}
"""kind -> base class that every component of the kind must have."""

ENTRY_POINT_GROUP = "icl.components"

C = TypeVar("C")


@dataclass(frozen=True)
class ComponentEntry:
    """A component that can be had by name, without having imported it."""

    kind: str
    name: str
    target: str
    summary: str


def component(kind: str, name: str) -> Callable[[type[C]], type[C]]:
    """Marks a frozen dataclass as the component `name` of `kind`."""

    def mark(cls: type[C]) -> type[C]:
        cls.component = (kind, name)  # type: ignore[attr-defined]
        return cls

    return mark


@dataclass(frozen=True)
class NestedComponent:
    """Metadata of a field that holds another component: `embedder: Annotated[Embedder, Nested("embedder")]`."""

    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(lambda node: build(self.kind, node))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": ["string", "object"], "description": f"a component of kind '{self.kind}'"}


def parameter(key: str, default: Any) -> Any:
    """A field that the config calls `key`, where the attribute of that name is something else.

    A task has `queries`, its examples, and a config says `queries: 5`: `query_limit: int = parameter("queries", 5)`.
    """
    return field(default=default, metadata={"key": key})


@dataclass(frozen=True)
class FunctionPath:
    """Metadata of a field that holds a function: `answer: Annotated[Callable[..., str], Imported()]`.

    A config gives its path (`my_pkg.my_mod:answer`, `studies/script.py:answer`), Python may give the function itself.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self._imported)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "string", "pattern": ":", "description": "path of a function, 'module:name' or 'file.py:name'"}

    @staticmethod
    def _imported(given: Any) -> Any:
        if callable(given):
            return given
        if not isinstance(given, str) or ":" not in given:
            raise ConfigError(f"a function is given by its path ('module:name' or 'file.py:name'), not by {given!r}.")
        return load_function(given)


@lru_cache
def entries(kind: str) -> dict[str, ComponentEntry]:
    """name -> entry of every component of a kind, in alphabetical order."""
    if kind not in PACKAGES:
        raise ConfigError(
            f"no kind of component named '{kind}'.{did_you_mean(kind, PACKAGES)} Kinds: {', '.join(PACKAGES)}."
        )
    found = {e.name: e for package in PACKAGES[kind] for e in _scan(package) if e.kind == kind}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        of, _, name = point.name.partition(".")
        if of == kind:
            found.setdefault(
                name, ComponentEntry(kind, name, point.value, f"from {point.dist.name if point.dist else point.module}")
            )
    return dict(sorted(found.items()))


def resolve(kind: str, name: str, where: str = "") -> type[Any]:
    """The class of a name or path. Raises ConfigError with the nearest known name."""
    if ":" in name:
        return load_class(name, where)
    known = entries(kind)
    if name not in known:
        other = next((one for one in PACKAGES if name in entries(one)), None)
        hint = f". That is {with_article(other)}." if other else suggest("component", name, known)
        raise ConfigError(f"{location(where)}no {kind} named '{name}'{hint} (icl ls {kind})")
    return load_class(known[name].target, where)


def build(kind: str, node: Any, where: str = "") -> Any:
    """The component that a config node describes. An object that is already a component passes through.

    where: what an error message names ('grid.yaml:9: grid.retriever[1]'). Raises ConfigError.
    """
    if is_dataclass(node) and not isinstance(node, type):
        _check_kind(kind, type(node), where)
        return node
    name, parameters = _parts(kind, node, where)
    cls = resolve(kind, name, where)
    _check_kind(kind, cls, where)
    if not is_dataclass(cls):
        raise ConfigError(
            f"{location(where)}'{name}' is not a dataclass. A component is a frozen dataclass (see CONTRIBUTING)."
        )
    if ":" in name:
        _check_members(kind, cls, name, where)
    known = {_key(f): f.name for f in fields(cls) if f.init}
    if "preset" in parameters and "preset" not in known:
        parameters = _preset(cls, name, parameters, where)
    for key in parameters:
        if key not in known:
            takes = f"It takes {', '.join(known)}." if known else "It takes no parameters."
            hint = suggest("parameter", key, known, name)
            raise ConfigError(f"{location(where)}{kind} '{name}' has no parameter '{key}'{hint} {takes}")
    return _validated(
        cls, {known[key]: value for key, value in parameters.items()}, f"{location(where)}{kind} '{name}'"
    )


def with_article(kind: str) -> str:
    """'a task', 'an orderer'."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def describe(thing: Any) -> Any:
    """The canonical node of a component: its name or path and *all* its parameters, as JSON. Equal nodes, equal pieces.

    A class from outside the packages carries the digest of its file: edited code is another component. Raises
    ConfigError for a parameter that would be told otherwise by the next process.
    """
    if is_dataclass(thing) and not isinstance(thing, type):
        cls = type(thing)
        mark = getattr(cls, "component", None)
        own = is_builtin(cls)
        node: dict[str, Any] = {"name": mark[1] if mark and own else import_path(cls)}
        if not own:
            node["code"] = code_digest(cls)
        return node | {_key(f): describe(getattr(thing, f.name)) for f in fields(thing) if f.init}
    if isinstance(thing, tuple | list | set | frozenset):
        told = [describe(item) for item in thing]
        return sorted(told, key=repr) if isinstance(thing, set | frozenset) else told
    if isinstance(thing, Mapping):
        return {str(key): describe(value) for key, value in thing.items()}
    if callable(thing):
        return {"function": import_path(thing), "code": code_digest(thing)}
    if isinstance(thing, float) and thing.is_integer():  # 1.0 from Python and 1 from a config are one value
        return int(thing)
    if repr(thing) == object.__repr__(thing):
        raise ConfigError(
            f"a parameter that is a {type(thing).__name__} has no text that stays the same. Make it a dataclass."
        )
    return thing


def is_builtin(cls: type[Any]) -> bool:
    """Whether a class is of the packages here, whose components go by their names everywhere."""
    return cls.__module__.split(".")[0] in {package.split(".")[0] for where in PACKAGES.values() for package in where}


def schema(kind: str) -> dict[str, Any]:
    """JSON schema of a node of this kind: every name with its parameters."""
    from pydantic import TypeAdapter

    options: list[dict[str, Any]] = [{"type": "string", "anyOf": [{"enum": list(entries(kind))}, {"pattern": ":"}]}]
    for name in entries(kind):
        cls = resolve(kind, name)
        one = TypeAdapter(cls).json_schema()
        keys = {f.name: _key(f) for f in fields(cls)}
        one["properties"] = {"name": {"const": name}} | {keys[k]: v for k, v in one.get("properties", {}).items()}
        one["required"] = ["name", *(keys[k] for k in one.get("required", []))]
        if presets := getattr(cls, "presets", {}):
            one["properties"]["preset"] = {"enum": list(presets)}
            given = {key for values in presets.values() for key in values}
            one["required"] = [key for key in one["required"] if key not in given]
        one["additionalProperties"] = False
        options.append(one)
    return {"anyOf": options}


def _key(of: "Field[Any]") -> str:
    return str(of.metadata.get("key", of.name))


def _check_kind(kind: str, cls: type[Any], where: str) -> None:
    of, name = getattr(cls, "component", (kind, ""))
    if of != kind:
        raise ConfigError(f"{location(where)}'{name}' is {with_article(of)}, not {with_article(kind)}. (icl ls {kind})")
    if kind in BASES and not issubclass(cls, base := load_class(BASES[kind])):
        raise ConfigError(
            f"{location(where)}'{name or cls.__name__}' is no {kind}: it does not subclass "
            f"{base.__module__}.{base.__name__}. Write `class {cls.__name__}({base.__name__})`; everything optional has "
            "a default there."
        )


def _check_members(kind: str, cls: type[Any], name: str, where: str) -> None:
    """A class from anyone's file has what a run asks of its kind. Its values are left alone: they may read data."""
    has = {*dir(cls), *(f.name for f in fields(cls))}
    missing = [member for member in REQUIRED_MEMBERS.get(kind, ()) if member not in has]
    missing += sorted(getattr(cls, "__abstractmethods__", ()))
    if missing and not hasattr(cls, "__getattr__"):
        raise ConfigError(f"{location(where)}'{name}' is no {kind}: it has no {', '.join(missing)}. (see CONTRIBUTING)")


def _parts(kind: str, node: Any, where: str) -> tuple[str, dict[str, Any]]:
    if isinstance(node, str):
        return node, {}
    if isinstance(node, Mapping) and isinstance(node.get("name"), str):
        return node["name"], {str(k): v for k, v in node.items() if k != "name"}
    raise ConfigError(
        f"{location(where)}{with_article(kind)} is a name or a mapping with the key 'name', not {node!r}."
    )


def _preset(cls: type[Any], name: str, parameters: dict[str, Any], where: str) -> dict[str, Any]:
    presets = getattr(cls, "presets", {})
    wanted = parameters.pop("preset")
    if wanted not in presets:
        have = f"Presets: {', '.join(presets)}." if presets else "It has none."
        raise ConfigError(
            f"{location(where)}'{name}' has no preset '{wanted}'.{did_you_mean(str(wanted), presets)} {have}"
        )
    return {**presets[wanted], **parameters}


def _validated(cls: type[Any], parameters: dict[str, Any], what: str) -> Any:
    """The component, its parameters within their types, every number finite."""
    from pydantic import TypeAdapter, ValidationError

    for key, value in parameters.items():
        if isinstance(value, bool) and not _takes_bool(cls, key):
            said = next(_key(f) for f in fields(cls) if f.name == key)
            raise ConfigError(
                f"{what}, {said}: {value} is no number. (YAML reads yes, no, on and off as true and false.)"
            )
    _check_finite(cls, parameters, what)
    try:
        found = TypeAdapter(cls).validate_python(parameters)
    except ConfigError as error:  # parameters that do not go together: said by the component itself
        raise ConfigError(f"{what}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        keys = {f.name: _key(f) for f in fields(cls)}
        key = ".".join(keys.get(str(part), str(part)) for part in first["loc"]) or "parameters"
        given = "" if first["type"] == "missing" else f", not {first['input']!r}"
        expected = re.findall("'([^']*)'", first.get("ctx", {}).get("expected", ""))
        if isinstance(first["input"], str) and (new := new_name("value", first["input"], expected)):
            given += f": it is now '{new}'"
        raise ConfigError(f"{what}, {key}: {first['msg'][0].lower()}{first['msg'][1:]}{given}.") from error
    _check_finite(cls, {f.name: getattr(found, f.name) for f in fields(cls) if f.init}, what)  # a text was a number
    return found


def _check_finite(cls: type[Any], values: Mapping[str, Any], what: str) -> None:
    if found := find_non_finite(cls, values):
        one, value = found
        raise ConfigError(f"{what}, {_key(one)}: {value} is no finite number (in single precision).")


def _takes_bool(cls: type[Any], name: str) -> bool:
    """False where the field is a number, possibly None: pydantic would read true as 1."""
    try:
        hint = get_type_hints(cls).get(name)
    except NameError:  # an annotation of the class that only a type checker can read
        return True
    kinds = set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}
    return not kinds <= {int, float, type(None)}


def _scan(package: str) -> Iterator[ComponentEntry]:
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.py")):
            text = path.read_text(encoding="utf-8")
            if "@component(" in text:
                yield from _marked(ast.parse(text), f"{package}.{path.stem}")


def _marked(tree: ast.Module, module: str) -> Iterator[ComponentEntry]:
    for node in tree.body:
        for mark in node.decorator_list if isinstance(node, ast.ClassDef) else []:
            if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "component":
                kind, name = (ast.literal_eval(argument) for argument in mark.args)
                doc = ast.get_docstring(node) or ast.get_docstring(tree) or ""  # type: ignore[arg-type]
                yield ComponentEntry(kind, name, f"{module}:{node.name}", doc.split("\n")[0])  # type: ignore[attr-defined]
