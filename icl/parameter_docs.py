"""Documentation of component parameters, read from the component's source file.

A parameter is a field of the dataclass. Its type gives its bounds, and the comment next to it gives its meaning. `icl
ls`, the documentation and the JSON schema all read them from here.
"""

import ast
import inspect
import tokenize
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints, runtime_checkable

from annotated_types import Ge, Gt, Le, Lt

from icl.component_json import config_key, describe
from icl.component_node import FLOAT32_MAX
from icl.registry import MAX_ITEMS, FunctionPath, NestedComponent, with_article

TYPE_NAMES = {str: "string", int: "integer", float: "number", bool: "true or false", type(None): "null"}
LIST_TYPES = (tuple, list, frozenset, set)
EXAMPLES = {
    "strategy": "vcd",
    "retriever": "knn",
    "embedder": "encoder",
    "reranker": "label_balance",
}
"""kind -> the component that examples use for a required parameter of this kind."""


@runtime_checkable
class DocumentedValues(Protocol):
    """Field metadata that lists the valid values, for a field whose type does not."""

    def values(self) -> str:
        """A sentence that lists the names."""
        ...


@dataclass(frozen=True)
class ParameterDoc:
    """Documentation of one parameter.

    Attributes:
        key: Its name in a config.
        kind: What it may be, in words.
        default: Its default as a config writes it, or an example if it is required.
        required: Whether a config has to set it.
        meaning: The comment next to the field.
    """

    key: str
    kind: str
    default: Any
    required: bool
    meaning: str


def parameter_docs(cls: type[Any]) -> list[ParameterDoc]:
    """The documentation of a component's parameters, in the order of its fields, its own before inherited ones."""
    hints = get_type_hints(cls, include_extras=True)
    meanings = {name: text for base in reversed(cls.__mro__) for name, text in _field_comments(base).items()}
    ordered = sorted(fields(cls), key=lambda f: f.name not in vars(cls).get("__annotations__", {}))
    return [_parameter_doc(f, hints[f.name], meanings.get(f.name, "")) for f in ordered if f.init]


def page_texts(cls: type[Any]) -> list[str]:
    """The texts of a component's page: what it is, its paper and formula, details.

    Details of a class are its own, or those of the nearest base class in its file. The second text is the docstring of
    the file, unless the file has other components and the class has details.
    """
    first, _, further = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")
    module = inspect.getmodule(cls)
    bases = [base for base in cls.__mro__ if base.__module__ == cls.__module__]
    details = (inspect.cleandoc(base.__doc__ or "").partition("\n\n")[2] for base in bases)
    further = further or next(filter(None, details), "")
    in_file = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == cls.__module__]
    is_alone = sum("component" in vars(one) for one in in_file) < 2
    return [text for text in (first, inspect.getdoc(module) or "" if is_alone or not further else "", further) if text]


def type_text(hint: Any) -> str:
    """A type in words: 'integer from 0 to 999', 'query or all', 'an embedder'."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        marker = next((extra for extra in arguments[1:] if isinstance(extra, NestedComponent | FunctionPath)), None)
        if isinstance(marker, NestedComponent):
            return with_article(marker.kind)
        return "path of a function" if marker else type_text(arguments[0]) + _range_text(arguments[1:])
    if origin is Literal:
        return " or ".join(filter(None, (", ".join(map(str, arguments[:-1])), str(arguments[-1]))))
    if origin in (Union, types.UnionType):
        is_scalar = {str, int, float} <= {*arguments}
        return "string or number" if is_scalar else " or ".join(dict.fromkeys(map(type_text, arguments)))
    if origin in LIST_TYPES:
        return f"list of {' and '.join(_plural(each) for each in dict.fromkeys(map(type_text, arguments)) if each)}"
    return _simple_type_text(origin or hint)


def _simple_type_text(hint: Any) -> str:
    """The words for a type without arguments; the empty string for the ellipsis of a tuple."""
    if hint is Ellipsis:
        return ""
    if isinstance(hint, type) and is_dataclass(hint):
        return f"a mapping of {', '.join(f.name for f in fields(hint))}"
    if isinstance(hint, type) and issubclass(hint, Mapping):
        return "mapping"
    return TYPE_NAMES.get(hint, getattr(hint, "__name__", str(hint)))


def _plural(kind: str) -> str:
    """'an embedder' -> 'embedders', 'number from 0 to 1' -> 'numbers from 0 to 1'."""
    head, space, rest = kind.removeprefix("a ").removeprefix("an ").partition(" ")
    return f"{head[:-1]}ies{space}{rest}" if head.endswith("y") else f"{head}s{space}{rest}"


def _range_text(extras: Sequence[Any]) -> str:
    low = next((extra.ge for extra in extras if isinstance(extra, Ge)), None)
    high = next(
        (extra.le for extra in extras if isinstance(extra, Le) and extra.le not in (MAX_ITEMS, FLOAT32_MAX)), None
    )
    above = next((extra.gt for extra in extras if isinstance(extra, Gt)), None)
    below = next((extra.lt for extra in extras if isinstance(extra, Lt)), None)
    if low is not None and high is not None:
        return f" from {low} to {high}"
    limits = {"at least": low, "above": above, "at most": high, "below": below}
    return "".join(f" {word} {value}" for word, value in limits.items() if value is not None)


def _parameter_doc(field: "Field[Any]", hint: Any, meaning: str) -> ParameterDoc:
    key = config_key(field)
    values = [str(extra.values()) for extra in get_args(hint)[1:] if isinstance(extra, DocumentedValues)]
    meaning = ". ".join(filter(None, (meaning, *values)))
    if field.default is not MISSING:
        return ParameterDoc(key, type_text(hint), _short_config(field.default), False, meaning)
    if field.default_factory is not MISSING:
        return ParameterDoc(key, type_text(hint), _short_config(field.default_factory()), False, meaning)
    return ParameterDoc(key, type_text(hint), _example(key, hint), True, meaning)


def _short_config(value: Any) -> Any:
    """A default as a config writes it: a component by its name and the parameters that differ from its defaults."""
    if isinstance(value, tuple | list):
        return [_short_config(item) for item in value]
    if not is_dataclass(value) or isinstance(value, type):
        return value if isinstance(value, float) else describe(value)
    defaults = {doc.key: doc.default for doc in parameter_docs(type(value)) if not doc.required}
    changes = {key: item for key, item in describe(value).items() if key not in defaults or item != defaults[key]}
    mark = getattr(type(value), "component", None)
    if mark is None:
        return {key: item for key, item in changes.items() if key not in ("name", "code")}
    return mark[1] if set(changes) <= {"name"} else changes


def _example(key: str, hint: Any) -> Any:
    """A value for a required parameter: '<path>' if only the author of the config knows it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        for extra in arguments[1:]:
            if isinstance(extra, NestedComponent):
                return EXAMPLES.get(extra.kind, f"<{extra.kind}>")
        if arguments[0] in (int, float):
            return 4 if arguments[0] is int else 0.5
        return _example(key, arguments[0])
    if origin in LIST_TYPES:
        return [_example(key, arguments[0])]
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return {f"<{key}>": "<…>"}
    return f"<{key}>"


@cache
def _field_comments(cls: type[Any]) -> dict[str, str]:
    """field name -> the comments on its lines and on the comment lines right below it; bases are not included."""
    annotations = vars(cls).get("__annotations__", {}) if cls.__module__ != "builtins" else {}
    if not annotations:
        return {}
    try:
        text = Path(inspect.getfile(cls)).read_text(encoding="utf-8")
    except (OSError, TypeError):  # a class of a notebook's cell
        return {}
    comments = dict(_comments_by_line(text))
    node = next((n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ClassDef) and n.name == cls.__name__), None)
    by_field: dict[str, str] = {}
    for field in node.body if node else []:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            last = field.end_lineno or field.lineno
            lines = [comments[i][1] for i in range(field.lineno, last + 1) if i in comments]
            while last + 1 in comments and comments[last + 1][0]:
                last += 1
                lines.append(comments[last][1])
            by_field[field.target.id] = " ".join(line for line in lines if not line.startswith(("noqa", "type:")))
    return by_field


def _comments_by_line(text: str) -> Iterator[tuple[int, tuple[bool, str]]]:
    """(line number, (whether the line has nothing else, comment))."""
    readline: Callable[[], str] = StringIO(text).readline
    for token in tokenize.generate_tokens(readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], (not token.line[: token.start[1]].strip(), token.string.lstrip("# "))
