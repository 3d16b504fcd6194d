"""The registry of components.

A component is a frozen dataclass, marked with `@component(kind, name)`. The registry finds
components by reading the files in the folders of their kind as text. Listing therefore imports nothing, and a new
component needs no change in another file.

A config names a component in one of three ways: by name (`knn`), by a mapping with parameters
(`{name: knn, by: image}`), or by the path of a class (`my_pkg.my_mod:Mine`, `studies/mine.py:Mine`). Python code may
pass the class or a component in its place. Installed packages add names through entry points `kind.name` in the group
`icl.components`.
"""

import importlib.util
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Gt, Le

from icl import Component, ConfigError, did_you_mean, pydantic, pydantic_core, suggest
from icl.component_json import config_key, describe, to_config
from icl.lazy_exports import check_packages
from icl.loading import (
    NoToolkitModuleError,
    component_search_folder,
    is_builtin,
    load_class,
    load_function,
    load_registered,
    location,
)

__all__ = [
    "PACKAGES",
    "ComponentEntry",
    "FunctionPath",
    "NestedComponent",
    "build",
    "called_here",
    "component",
    "component_search_folder",
    "describe",
    "entries",
    "is_builtin",
    "parameter",
    "parse",
    "resolve",
    "schema",
    "to_config",
    "with_article",
]

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "task": ("icl.tasks", "icl.tasks.generated", "icl.tasks.drawings"),
    "model": ("icl.models", "icl.models.hf", "icl.models.vllm"),
    "metric": ("icl.metrics", "icl.metrics.machinery"),
    "edit": ("icl.edits",),
    "embedder": ("retrievers.embedders", "retrievers.machinery"),
    "retriever": ("retrievers", "retrievers.machinery"),
    "reranker": ("retrievers.rerankers",),
    "orderer": ("prompts.orderers",),
    "transform": ("prompts.transforms",),
    "composer": ("prompts.composers",),
    "strategy": ("decoding.strategies", "decoding.strategies.reconstructions", "decoding.controls", "decoding.arms"),
    "intervention": ("decoding.interventions", "decoding.interventions.reconstructions"),
    "launcher": ("experiments.launch",),
    "observer": ("experiments.observers",),
}
"""kind -> the packages that hold its components."""

REQUIRED_MEMBERS: Mapping[str, tuple[str, ...]] = {
    "task": ("title", "queries", "pool", "pool_size"),
    "metric": ("score", "better"),
    "edit": ("bind", "describe", "apply_to_image", "apply_to_pixel_values"),
    "embedder": ("digest", "embed_images", "embed_texts"),
    "retriever": ("needs", "fit"),
    "reranker": ("needs", "fit"),
    "orderer": ("order",),
    "transform": ("transform",),
    "composer": ("compose",),
    "launcher": ("workers", "wait", "check", "start", "reattach"),
    "observer": ("check", "started", "cell", "table", "artifact", "finished"),
}
"""kind -> the members that a run uses, for kinds without a base class in `BASES`."""

BASES: Mapping[str, str] = {
    "model": "icl.models.base:Model",
    "strategy": "decoding.base:Strategy",
    "intervention": "decoding.base:SteeringMethod",
}
"""kind -> base class that every component of the kind must have."""

ENTRY_POINT_GROUP = "icl.components"

_DOC = r'r?"""(?P<doc>[^\n]*?)(?:"""|\n)'
_MODULE_DOC = re.compile(_DOC)
_MARKED_CLASS = re.compile(
    r'^@component\("(?P<kind>[^"]+)", "(?P<name>[^"]+)"(?P<synonyms>(?:, "[^"]+")*)\)\n(?:@.*\n)*'
    rf"class (?P<cls>\w+)[^\n]*:\n(?:    {_DOC})?",
    re.MULTILINE,
)
"""A marked class in a file of the toolkit. To parse each file would take ten times as long."""

C = TypeVar("C")


@dataclass(frozen=True)
class ComponentEntry:
    """The name and import path of a component that may not be imported yet.

    Attributes:
        target: `module:class`.
        summary: The first line of its documentation.
        synonyms: Other names by which the field knows it. A config does not take them; an error names the component.
    """

    kind: str
    name: str
    target: str
    summary: str
    synonyms: tuple[str, ...] = ()

    @property
    def is_reconstruction(self) -> bool:
        """Whether its file is in a folder `reconstructions`: it follows an abstract, because no text was available."""
        return ".reconstructions." in self.target


def component(kind: str, name: str, *synonyms: str) -> Callable[[type[C]], type[C]]:
    """Class decorator that marks a frozen dataclass as the component `name` of `kind`.

    Args:
        kind: The kind.
        name: The name in a config.
        synonyms: Other names by which the field knows it, in lower case, such as "rices". An error about an unknown
            name then says what it is called here.
    """

    def mark(cls: type[C]) -> type[C]:
        cls.component = (kind, name)  # type: ignore[attr-defined]
        return cls

    return mark


@dataclass(frozen=True)
class NestedComponent:
    """Field metadata for a parameter that is itself a component.

    Example: `embedder: Annotated[Embedder, NestedComponent("embedder")]`.
    """

    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return pydantic_core.core_schema.no_info_plain_validator_function(lambda node: build(self.kind, node))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": ["string", "object"], "description": f"a component of kind '{self.kind}'"}


def parameter(key: str, default: Any) -> Any:
    """A dataclass field with a config key that differs from its attribute name.

    A task has the attribute `queries`, its examples, while a config sets their number under the key `queries`. The
    field is then `query_limit: int = parameter("queries", 5)`.
    """
    return field(default=default, metadata={"key": key})


def later_parameter(default: Any, *identity: Any, before: Any = MISSING) -> Any:
    """A dataclass field that was added, or got a new default, after cells were stored under their digests.

    Args:
        default: The default.
        identity: What `icl.component_json.describe` gives in place of the default. Nothing: it leaves the field out.
        before: The value by which stored cells were computed, if it is not the default. It is left out then.
    """
    metadata = {"identity": identity, "before": default if before is MISSING else before}
    if isinstance(default, dict):  # a mapping has no hash
        return field(default_factory=default.copy, hash=False, metadata=metadata)
    return field(default=default, metadata=metadata)


def renamed_values(former: Callable[[Any], Any], **default: Any) -> Any:
    """A dataclass field whose values got other names after cells were stored under their digests.

    Args:
        former: Gives the former name of a value, which stays in the identity; other values as they are.
        default: `default=VALUE`, if the parameter is not required.
    """
    return field(metadata={"former": former}, **default)


@dataclass(frozen=True)
class FunctionPath:
    """Field metadata for a parameter that is a function: `answer: Annotated[Callable[..., str], FunctionPath()]`.

    A config gives the path of the function (`my_pkg.my_mod:answer`, `studies/script.py:answer`). Python code may pass
    the function itself.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return pydantic_core.core_schema.no_info_plain_validator_function(self._load)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "string", "pattern": ":", "description": "path of a function, 'module:name' or 'file.py:name'"}

    @staticmethod
    def _load(value: Any) -> Any:
        if callable(value):
            return value
        if not isinstance(value, str) or ":" not in value:
            raise ConfigError(f"a function is given by its path ('module:name' or 'file.py:name'), not by {value!r}.")
        return load_function(value)


@lru_cache
def entries(kind: str) -> dict[str, ComponentEntry]:
    """name -> entry of every component of a kind, in alphabetical order.

    Raises:
        ConfigError: There is no such kind.
    """
    if kind not in PACKAGES:
        raise ConfigError(
            f"no kind of component named '{kind}'.{did_you_mean(kind, PACKAGES)} Kinds: {', '.join(PACKAGES)}."
        )
    by_name = {entry.name: entry for package in PACKAGES[kind] for entry in _scan(package) if entry.kind == kind}
    for point in _entry_points():
        point_kind, _, name = point.name.partition(".")
        if point_kind == kind:
            summary = f"from {point.dist.name if point.dist else point.module}"
            by_name.setdefault(name, ComponentEntry(kind, name, point.value, summary))
    return dict(sorted(by_name.items()))


@lru_cache
def _entry_points() -> EntryPoints:
    """The entry points of installed packages, which are read once: their metadata are many files."""
    return entry_points(group=ENTRY_POINT_GROUP)


def resolve(kind: str, name: str, where: str = "") -> type[Any]:
    """The class of a component name or path.

    Raises:
        ConfigError: There is no such component. The message suggests the new or the nearest name.
    """
    if ":" in name:
        with suppress(NoToolkitModuleError):  # the components of the toolkit have names, which the message suggests
            return load_class(name, where)
    if entry := _in_own_file(kind, name):
        return load_registered(entry.target, where)
    by_name = entries(kind)
    if name not in by_name:
        other_kind = next((other for other in PACKAGES if name in entries(other)), None)
        hint = f". That is {with_article(other_kind)}." if other_kind else called_here(name, by_name.values())
        moved = [own for own, entry in by_name.items() if entry.target.partition(":")[2] == name.partition(":")[2]]
        hint = hint or (f". Did you mean '{moved[0]}'?" if moved else "")
        hint = hint or suggest("component", name.partition(":")[0], by_name)
        if kind == "model" and "Did you mean" not in hint:
            hint = f"{hint.rstrip('.')}. To use a checkpoint, write {{name: hf, path: {name}}}."
        raise ConfigError(f"{location(where)}no {kind} named '{name}'{hint} (icl ls {kind})")
    return load_registered(by_name[name].target, where)


def called_here(word: str, candidates: Iterable[ComponentEntry]) -> str:
    """The end of a sentence about an unknown name: the components that the field knows by it; '' if there are none."""
    synonym = word.lower().replace("-", "_")
    names = [repr(entry.name) for entry in candidates if synonym in entry.synonyms]
    return f". It is called {' or '.join(filter(None, [', '.join(names[:-1]), names[-1]]))} here." if names else ""


def build(kind: str, node: Any, where: str = "") -> Any:
    """The component that a config node describes.

    Args:
        kind: The kind of component, a key of `PACKAGES`.
        node: A name, a mapping with the key `name`, a class, or a component, which is returned as it is.
        where: The place that error messages name, such as 'grid.yaml:9: grid.retriever[1]'.

    Raises:
        ConfigError: The node names no component of this kind, or a parameter is unknown or out of range.
    """
    return parse(kind, node, where).build()


def parse(kind: str, node: Any, where: str = "") -> Component:
    """The class and the parameters of a config node, as `build` takes it. The parameters are checked when it is built.

    Raises:
        ConfigError: The node names no component of this kind.
    """
    instance = node if is_dataclass(node) and not isinstance(node, type) else None
    reference = type(instance) if instance is not None else node["name"] if _has_name(node) else node
    if not isinstance(reference, str | type):
        raise ConfigError(
            f"{location(where)}{with_article(kind)} must be a name or a mapping with the key 'name', not {node!r}."
        )
    cls = reference if isinstance(reference, type) else resolve(kind, reference, where)
    name = class_name(cls) if isinstance(reference, type) else reference
    _check_kind(kind, cls, where)
    if not is_dataclass(cls):
        raise ConfigError(
            f"{location(where)}'{name}' is not a dataclass. A component is a frozen dataclass (see CONTRIBUTING)."
        )
    if ":" in name or not hasattr(cls, "component"):
        _check_members(kind, cls, name, where)
    parameters = {str(key): value for key, value in node.items() if key != "name"} if _has_name(node) else {}
    return Component(kind, name, cls, parameters, where, instance)


def _has_name(node: Any) -> bool:
    return isinstance(node, Mapping) and isinstance(node.get("name"), str | type)


def class_name(cls: type[Any]) -> str:
    """The name of a component class: the name in its mark, else the name of the class."""
    return str(getattr(cls, "component", ("", cls.__name__))[1])


def with_article(kind: str) -> str:
    """'a task', 'an orderer'."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def schema(kind: str) -> dict[str, Any]:
    """The JSON schema of a config node of this kind: every component name with its parameters.

    A parameter's description is the comment next to its field (see `icl.parameter_docs`).
    """
    names = list(entries(kind))
    name_schema: dict[str, Any] = {"type": "string", "anyOf": [{"enum": names}, {"pattern": ":"}]}
    return {"anyOf": [name_schema, *(_component_schema(name, resolve(kind, name)) for name in names)]}


def _component_schema(name: str, cls: type[Any]) -> dict[str, Any]:
    from icl.parameter_docs import parameter_docs

    node: dict[str, Any] = pydantic.TypeAdapter(cls).json_schema()
    keys = {f.name: config_key(f) for f in fields(cls)}
    properties: dict[str, Any] = {keys[field]: value for field, value in node.get("properties", {}).items()}
    for doc in parameter_docs(cls):
        if doc.meaning:
            properties[doc.key] = {**properties[doc.key], "description": doc.meaning}
    required = ["name", *(keys[field] for field in node.get("required", []))]
    if presets := getattr(cls, "presets", {}):
        properties["preset"] = {"enum": list(presets), "description": "a published set of parameters"}
        preset_keys = {key for values in presets.values() for key in values}
        required = [key for key in required if key not in preset_keys]
    node["properties"] = {"name": {"const": name}} | properties
    node["required"] = required
    node["additionalProperties"] = False
    return node


def _check_kind(kind: str, cls: type[Any], where: str) -> None:
    actual, name = getattr(cls, "component", (kind, ""))
    if actual != kind:
        raise ConfigError(
            f"{location(where)}'{name}' is {with_article(actual)}, not {with_article(kind)}. (icl ls {kind})"
        )
    if kind in BASES and not issubclass(cls, base := load_registered(BASES[kind])):
        raise ConfigError(
            f"{location(where)}'{name or cls.__name__}' is not {with_article(kind)}: it does not subclass "
            f"{base.__module__}.{base.__name__}. Write `class {cls.__name__}({base.__name__})`; everything optional "
            "has a default there."
        )


def _check_members(kind: str, cls: type[Any], name: str, where: str) -> None:
    """Check that a class from outside the toolkit has the members of its kind.

    The check looks at names only, since a property may read data.
    """
    members = {*dir(cls), *(f.name for f in fields(cls))}
    missing = [member for member in REQUIRED_MEMBERS.get(kind, ()) if member not in members]
    missing += sorted(getattr(cls, "__abstractmethods__", ()))
    if missing and not hasattr(cls, "__getattr__"):
        raise ConfigError(
            f"{location(where)}'{name}' is not {with_article(kind)}: it has no {', '.join(missing)}. (see CONTRIBUTING)"
        )


def _scan(package: str) -> Iterator[ComponentEntry]:
    """The components in the files of a package, without importing them."""
    for folder in _folders(package):
        for path in sorted(folder.glob("*.py")):
            yield from _marked_classes(package, path)


def _in_own_file(kind: str, name: str) -> ComponentEntry | None:
    """The component in a file or folder of its name. This saves reading all files of its kind."""
    stem = name.replace("-", "_")
    for package in PACKAGES.get(kind, ()) if stem.isidentifier() else ():
        in_own_folder = package.endswith(f".{stem}")
        files = (path for folder in _folders(package) for path in folder.glob("*.py"))
        for path in (path for path in files if in_own_folder or path.stem == stem):
            for entry in _marked_classes(package, path):
                if (entry.kind, entry.name) == (kind, name):
                    return entry
    return None


def _folders(package: str) -> list[Path]:
    check_packages()
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []


def _marked_classes(package: str, path: Path) -> Iterator[ComponentEntry]:
    text = path.read_text(encoding="utf-8")
    module_doc = _MODULE_DOC.match(text)
    for mark in _MARKED_CLASS.finditer(text):
        summary = mark["doc"] or (module_doc["doc"] if module_doc else "")
        synonyms = tuple(re.findall('"([^"]+)"', mark["synonyms"]))
        yield ComponentEntry(mark["kind"], mark["name"], f"{package}.{path.stem}:{mark['cls']}", summary, synonyms)


# Annotated types that bound the parameters of components.
NonNegative = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
Temperature = Annotated[float, Ge(0), Le(1000)]
"""Divisor of scores. 0 means the best token, and so does any value too small for a float32 division."""
LengthPenalty = Annotated[float, Ge(-10), Le(10)]
"""Exponent of the answer length, small enough that the power stays finite."""
BeamCount = Annotated[int, Ge(1), Le(1024)]

MAX_ITEMS = 10_000_000
"""Upper bound of every count. A larger one is a mistake that would fill the memory."""
Count = Annotated[int, Ge(0), Le(MAX_ITEMS)]
PositiveInt = Annotated[int, Ge(1), Le(MAX_ITEMS)]
PatchesPerSide = Annotated[int, Ge(2), Le(256)]
"""Patches along one side of an image. Time and memory grow with the square."""
GeneratedCount = Annotated[int, Ge(1), Le(100_000)]
"""Number of examples that a generated task makes before the first sample."""


# Misspelled members of a subclass, reported when the class is created.
#
# A base class with optional members cannot tell a method that nobody overrides from an override with a typo in its
# name. So it is an error if a public name of a subclass resembles a member of the base class but is not one.


SIMILARITY = 0.8
"""`difflib` ratio from which a name counts as a misspelling."""


def check_member_names(cls: type[Any], base: type[Any]) -> None:
    """Check the names that a subclass defines; call it from `__init_subclass__`.

    Dataclass fields are parameters and may have any name, but one that is named like a member of the base class needs
    a default: `dataclass` would take the base's member for it.

    Args:
        cls: The subclass, before any decorator has run.
        base: The class that defines the members it may override.

    Raises:
        TypeError: A name is probably a misspelled member, or a field of a member's name has no default.
    """
    members = {name for name in dir(base) if not name.startswith("_")}
    fields = {name for name, kind in inspect.get_annotations(cls).items() if "ClassVar" not in str(kind)}
    if hidden := sorted(fields & members - vars(cls).keys()):
        raise TypeError(
            f"{cls.__name__}.{hidden[0]}: {base.__name__} has a member of this name, so the field needs a default "
            "(or make it a property)."
        )
    candidates = sorted(members - fields - vars(cls).keys())
    for name in vars(cls):
        if name.startswith("_") or name in members or name in fields:
            continue
        if matches := get_close_matches(name, candidates, 1, SIMILARITY):
            raise TypeError(
                f"{cls.__name__}.{name} is not a member of {base.__name__}. Did you mean '{matches[0]}'? Start the "
                "name of a helper of your own with an underscore."
            )
