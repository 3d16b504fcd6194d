"""What a component's file says of its parameters: of each its key, what it may be, its default and its meaning.

A parameter is a field of the dataclass, its bounds are its type, and its meaning is the comment beside it. So the file
is the documentation, and this reads it.
"""

import ast
import inspect
import tokenize
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from io import StringIO
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    Protocol,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

from annotated_types import Ge, Gt, Le, Lt

from icl.constraints import MAX_ITEMS
from icl.registry import FunctionPath, NestedComponent, describe, with_article

TYPE_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}
LIST_TYPES = (tuple, list, frozenset, set)
EXAMPLES = {
    "strategy": "vcd",
    "retriever": "knn",
    "embedder": "encoder",
    "reranker": "label_balance",
}
"""kind -> what an example names where a component holds another and has no default."""


@runtime_checkable
class DocumentedValues(Protocol):
    """Metadata of a field that knows what may stand in it, where its type does not say."""

    def values(self) -> str:
        """A sentence of names."""
        ...


@dataclass(frozen=True)
class ParameterDoc:
    """key: as a config writes it. kind: what it may be, in words. default: as a config would write it.

    required: whether a config has to give it; `default` is then an example. meaning: the comment beside the field.
    """

    key: str
    kind: str
    default: Any
    required: bool
    meaning: str


def parameter_docs(cls: type[Any]) -> list[ParameterDoc]:
    """Of a component's class, in the order of its fields, with those of its bases."""
    hints = get_type_hints(cls, include_extras=True)
    said = {name: text for base in reversed(cls.__mro__) for name, text in _comments(base).items()}
    return [_parameter(one, hints[one.name], said.get(one.name, "")) for one in fields(cls) if one.init]


def type_text(hint: Any) -> str:
    """What a value of this type may be: 'whole number from 0 to 999', 'query or all', 'an embedder'."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        component = next((extra for extra in inner[1:] if isinstance(extra, NestedComponent | FunctionPath)), None)
        if isinstance(component, NestedComponent):
            return with_article(component.kind)
        return "path of a function" if component else type_text(inner[0]) + _range(inner[1:])
    if origin is Literal:
        return " or ".join(filter(None, (", ".join(map(str, inner[:-1])), str(inner[-1]))))
    if origin in (Union, types.UnionType):
        return "text or number" if {str, int, float} <= {*inner} else " or ".join(dict.fromkeys(map(type_text, inner)))
    if origin in LIST_TYPES:
        return f"list of {' and '.join(_many(each) for each in dict.fromkeys(map(type_text, inner)) if each)}"
    return _plain(origin or hint)


def _plain(kind: Any) -> str:
    """A type without arguments; '' for the rest of a list."""
    if kind is Ellipsis:
        return ""
    if isinstance(kind, type) and is_dataclass(kind):
        return f"a mapping of {', '.join(one.name for one in fields(kind))}"
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "mapping"
    return TYPE_NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def _many(kind: str) -> str:
    """'an embedder' -> 'embedders', 'number from 0 to 1' -> 'numbers from 0 to 1'."""
    head, space, rest = kind.removeprefix("a ").removeprefix("an ").partition(" ")
    if head in ("whole", "text"):
        return kind.replace("whole number", "whole numbers")
    return f"{head[:-1]}ies{space}{rest}" if head.endswith("y") else f"{head}s{space}{rest}"


def _range(extras: Sequence[Any]) -> str:
    low = next((extra.ge for extra in extras if isinstance(extra, Ge)), None)
    high = next((extra.le for extra in extras if isinstance(extra, Le) and extra.le != MAX_ITEMS), None)
    above = next((extra.gt for extra in extras if isinstance(extra, Gt)), None)
    below = next((extra.lt for extra in extras if isinstance(extra, Lt)), None)
    if low is not None and high is not None:
        return f" from {low} to {high}"
    told = {"at least": low, "above": above, "at most": high, "below": below}
    return "".join(f" {word} {value}" for word, value in told.items() if value is not None)


def _parameter(one: "Field[Any]", hint: Any, meaning: str) -> ParameterDoc:
    key = str(one.metadata.get("key", one.name))
    known = [str(extra.values()) for extra in get_args(hint)[1:] if isinstance(extra, DocumentedValues)]
    meaning = ". ".join(filter(None, (meaning, *known)))
    if one.default is MISSING and one.default_factory is MISSING:
        return ParameterDoc(key, type_text(hint), _example(key, hint), True, meaning)
    value = one.default_factory() if one.default is MISSING and one.default_factory is not MISSING else one.default
    return ParameterDoc(key, type_text(hint), _short(value), False, meaning)


def _short(value: Any) -> Any:
    """A component as its name and what differs from its own defaults; anything else as it is described."""
    if isinstance(value, tuple | list):
        return [_short(item) for item in value]
    if not is_dataclass(value) or isinstance(value, type):
        return value if isinstance(value, float) else describe(value)
    told = describe(value)
    own = {one.key: one.default for one in parameter_docs(type(value)) if not one.required}
    changed = {key: item for key, item in told.items() if key not in own or item != own[key]}
    mark = getattr(type(value), "component", None)
    if mark is None:
        return {key: item for key, item in changed.items() if key not in ("name", "code")}
    return mark[1] if set(changed) <= {"name"} else changed


def _example(key: str, hint: Any) -> Any:
    """What a config could write where it has to write something: '<path>' where only its author knows."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        for extra in inner[1:]:
            if isinstance(extra, NestedComponent):
                return EXAMPLES.get(extra.kind, f"<{extra.kind}>")
        if inner[0] in (int, float):
            return 4 if inner[0] is int else 0.5
        return _example(key, inner[0])
    if origin in LIST_TYPES:
        return [_example(key, inner[0])]
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return {f"<{key}>": "<…>"}
    return f"<{key}>"


def _comments(cls: type[Any]) -> dict[str, str]:
    """field -> the comments on its lines and on those that go on below it, of the class's own fields."""
    own = vars(cls).get("__annotations__", {}) if cls.__module__ != "builtins" else {}
    if not own:
        return {}
    try:
        text = Path(inspect.getfile(cls)).read_text(encoding="utf-8")
    except (OSError, TypeError):  # a class of a notebook's cell
        return {}
    beside = dict(_by_line(text))
    node = next((n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ClassDef) and n.name == cls.__name__), None)
    found: dict[str, str] = {}
    for field in node.body if node else []:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            last = field.end_lineno or field.lineno
            lines = [beside[i][1] for i in range(field.lineno, last + 1) if i in beside]
            while last + 1 in beside and beside[last + 1][0]:
                last += 1
                lines.append(beside[last][1])
            found[field.target.id] = " ".join(line for line in lines if not line.startswith(("noqa", "type:")))
    return found


def _by_line(text: str) -> Iterator[tuple[int, tuple[bool, str]]]:
    """(line, (whether nothing else is on it, comment))."""
    readline: Callable[[], str] = StringIO(text).readline
    for token in tokenize.generate_tokens(readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], (not token.line[: token.start[1]].strip(), token.string.lstrip("# "))
