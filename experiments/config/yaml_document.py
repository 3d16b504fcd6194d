"""A YAML file as plain data with line numbers, so that an error can name `contrast.yaml:11: grid.decoding[1]`.

The reader follows YAML 1.2: `[yes, no]` are two strings, `010` is ten, `1e-3` is a number. A date is a string. A tag
that makes an object is an error, and so is a key that is written twice.

Overrides of the command line (`grid.shots=[0,4] model.path=Qwen/Qwen2.5-VL-7B-Instruct`) are read as YAML too. A
component that is a plain name becomes a mapping if an override sets one of its parameters. A number between dots is an
index of a list (`grid.decoding.1.alpha=2`).
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.resolver import Resolver, VersionedResolver

from experiments.config.keys import AXES, DEFAULTS, KEYS, LIST_AXES, unknown_key
from icl import ConfigError

KeyPath = tuple[str | int, ...]
"""The path of a value in a document: ('grid', 'decoding', 1)."""

TAG = "tag:yaml.org,2002:"
PLAIN = frozenset({"map", "seq", "str", "int", "float", "bool", "null"})
MAX_BYTES = 10_000_000
MAX_INTEGER_BITS = 1024
"""No parameter takes a larger number. Python does not print numbers of more than 4,300 digits."""
MAX_NODES = 100_000
"""The limit stops aliases of aliases, which grow exponentially. No experiment needs as many values."""


@dataclass(frozen=True)
class Document:
    """An experiment file as plain data with the origin of each value.

    Attributes:
        name: Name of the file in error messages.
        folder: Folder of the file. Paths in it are relative to this folder.
        data: Values of the top-level keys.
        lines: Path of a value -> its line.
        overridden: Paths that the command line has set.
        untrusted_run: The run directory that it was read from, if the user does not trust it.
        day: The date of the run that it was read from, or None.
    """

    name: str
    folder: Path
    data: dict[str, Any]
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    overridden: frozenset[KeyPath] = frozenset()
    untrusted_run: Path | None = None
    day: date | None = None

    def where(self, *keys: str | int) -> str:
        """'contrast.yaml:11: grid.decoding[1]'. A path without a line takes the line of the nearest path above it."""
        key_path = format_key_path(keys)
        places = [keys[:end] for end in range(len(keys), 0, -1)]
        if any(place in self.overridden for place in places):
            return f"command line: {key_path}"
        line = next((self.lines[place] for place in places if place in self.lines), None)
        if line is not None:
            return f"{self.name}:{line}: {key_path}"
        return f"{self.name}: {key_path}" if key_path else self.name


def format_key_path(keys: Sequence[str | int]) -> str:
    """('grid', 'decoding', 1) -> 'grid.decoding[1]'."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def read_document(path: Path) -> Document:
    """The document of a file. Raises ConfigError with the line of the mistake."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path} has more than {MAX_BYTES:,} bytes, so it is not an experiment file.")
        text = content.decode("utf-8")
    except FileNotFoundError as error:
        names = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        names.sort(key=lambda name: -SequenceMatcher(None, path.stem, Path(name).stem).ratio())
        siblings = f" Beside it: {', '.join(names[:5])}{', …' * (len(names) > 5)}." if names else ""
        raise ConfigError(f"there is no file {path}.{siblings}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    data, lines = parse_yaml(text, str(path))
    if data is None:
        raise ConfigError(f"{path} is empty. An experiment needs at least the keys task and model.")
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: an experiment must be a mapping with keys such as task, model and grid, not {data!r:.60}."
        )
    return Document(str(path), path.parent.resolve(), data, lines)


def parse_yaml(text: str, name: str) -> tuple[Any, dict[KeyPath, int]]:
    """(plain data, path of a value -> its line).

    Args:
        text: A YAML document.
        name: Name of the text in error messages.

    Raises:
        ConfigError: Invalid YAML, a key that is written twice, a tag that makes an object, or too many values.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _Resolver
    yaml.composer.warn_double_anchors = False  # the builder refuses them
    try:
        node = yaml.compose(text)
        if node is None:
            return None, {}
        builder = _Builder(yaml, name)
        return builder.value(node, ()), builder.lines
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{name}{line}: not valid YAML: {error.problem or error.context}.") from error
    except (YAMLError, AssertionError) as error:  # `%YAML 1.9` fails an assertion of the library
        raise ConfigError(f"{name}: not valid YAML: {error}.") from error
    except RecursionError as error:
        raise ConfigError(
            f"{name}: lists or mappings are nested too deeply. An experiment needs a few levels."
        ) from error


def to_flow_yaml(value: Any) -> str:
    """A value in one line of YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {to_flow_yaml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(to_flow_yaml, value))}]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z<]([\w<>…./ -]*[\w>…./-])?", value) and value not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=isinstance(value, str) and not value.isprintable())


_WORDS = ("null", "true", "false", "yes", "no", "on", "off")


class _Resolver(VersionedResolver):
    """The rules of YAML 1.2 for plain scalars, even if `%YAML` names another version, without dates and times."""

    processing_version = (1, 2)
    versioned_resolver = {  # noqa: RUF012
        first: [(tag, rule) for tag, rule in rules if not tag.endswith((":timestamp", ":value"))]
        for first, rules in Resolver.yaml_implicit_resolvers.items()
    }


class _Builder:
    """Converts the nodes of a document to plain data and collects their lines."""

    def __init__(self, yaml: YAML, name: str) -> None:
        self.yaml, self.name = yaml, name
        self.lines: dict[KeyPath, int] = {}
        self.anchors: dict[str, Node] = {}
        self.num_nodes = 0
        self.open: set[Node] = set()

    def value(self, node: Node, keys: KeyPath) -> Any:
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise ConfigError(f"{self.name}: more than {MAX_NODES:,} values. Are its aliases nested?")
        if node in self.open:
            raise self._error(node, "an alias that contains itself")
        if node.anchor and self.anchors.setdefault(node.anchor, node) is not node:
            raise self._error(node, f"the anchor &{node.anchor} is defined twice. Keep one")
        if str(node.tag).removeprefix(TAG) not in PLAIN:
            raise self._error(node, f"the tag {node.tag} makes an object; only plain values are allowed")
        self.lines.setdefault(keys, node.start_mark.line + 1)
        self.open.add(node)
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, keys)
            if isinstance(node, SequenceNode):
                return [self.value(item, (*keys, i)) for i, item in enumerate(node.value)]
            return self._scalar(node)
        finally:
            self.open.discard(node)

    def _mapping(self, node: MappingNode, keys: KeyPath) -> dict[str, Any]:
        self._check_keys(node, keys)
        values: dict[str, Any] = {}
        for key, base in node.value:
            if key.tag == f"{TAG}merge":  # `<<: *base`; of several bases the first wins
                for one in reversed(base.value if isinstance(base, SequenceNode) else [base]):
                    if not isinstance(one, MappingNode):
                        raise self._error(one, "<< requires a mapping or a list of mappings, such as <<: *base")
                    values |= self.value(one, keys)
        for key, value in node.value:
            if key.tag != f"{TAG}merge":  # own keys win
                place = (*keys, key.value)
                self.lines[place] = key.start_mark.line + 1
                values[key.value] = self.value(value, place)
        return values

    def _check_keys(self, node: MappingNode, keys: KeyPath) -> None:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise self._error(key, "a key must be a string")
            line = key.start_mark.line + 1
            if key.value in lines:
                place = format_key_path((*keys, key.value))
                raise ConfigError(
                    f"{self.name}:{line}: {place} is defined twice (first in line {lines[key.value]}). Keep one."
                )
            lines[key.value] = line

    def _scalar(self, node: Node) -> Any:
        try:
            value = self.yaml.constructor.construct_object(node)
        except (ValueError, LookupError) as error:  # `!!int x`
            raise self._error(node, f"{node.value!r:.60} is not a valid {str(node.tag).removeprefix(TAG)}") from error
        if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
            raise self._error(node, f"{node.value[:20]}… is too large a number. Numbers have at most 308 digits")
        return value

    def _error(self, node: Node, problem: str) -> ConfigError:
        return ConfigError(f"{self.name}:{node.start_mark.line + 1}: {problem}.")


def apply_overrides(document: Document, overrides: Sequence[str] | Mapping[str, Any]) -> Document:
    """The document with the values of overrides.

    Args:
        document: An experiment file.
        overrides: Texts such as 'grid.shots=[0,4]', or dotted key -> value.

    Raises:
        ConfigError: An unknown key, or a place that does not exist.
    """
    pairs = overrides.items() if isinstance(overrides, Mapping) else map(parse_override, overrides)
    try:
        data, overridden = _copy(document.data), set(document.overridden)
    except RecursionError as error:  # a Python mapping that contains itself
        raise ConfigError(
            f"{document.name}: lists or mappings are nested too deeply. An experiment needs a few levels."
        ) from error
    axes: dict[str, None] = {}
    suggestions: list[str] = []
    for key, value in pairs:
        keys = _set(data, key, value)
        if keys[0] in AXES and keys[0] in (data.get("grid") or {}):
            axis = str(keys[0])
            path = axis if axis in LIST_AXES else format_key_path(keys)
            values = value if isinstance(value, list) and path == axis and axis not in LIST_AXES else [value]
            suggestions.append(f"grid.{path}={'[...]' if len(keys) > 1 and path == axis else to_flow_yaml(values)}")
            axes[axis] = None
        overridden.add(keys)
    if axes:
        what = f"{next(iter(axes))} is an axis" if len(axes) == 1 else f"{', '.join(axes)} are axes"
        raise ConfigError(f"command line: {what} of the grid. Write {shlex.join(suggestions)}.")
    return replace(document, data=data, overridden=frozenset(overridden))


def parse_override(text: str) -> tuple[str, Any]:
    """(key, value) of a text 'key=value'. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"command line: '{text}' is not of the form key=value, such as grid.shots=[0,4].")
    return key, parse_yaml(value, f"command line: {key}")[0]


def _set(data: dict[str, Any], dotted_key: str, value: Any) -> KeyPath:
    """Sets a value in place and returns its path."""
    keys = _split_key(data, dotted_key)
    node: Any = data
    for i, key in enumerate(keys):
        place = format_key_path(keys[:i])
        if isinstance(node, list) and (isinstance(key, str) or key >= len(node)):
            raise ConfigError(
                f"command line: {dotted_key}: {place} is a list of {len(node)} values; '{key}' is not a valid index."
            )
        if i == len(keys) - 1:
            node[key] = value
            break
        child: Any = node.get(key) if isinstance(node, dict) else node[key]
        if child is None and i == 0:
            child = DEFAULTS.get(str(key))
        if isinstance(child, str):  # a component without parameters
            child = {"name": child}
        elif child is None:
            child = {}
        elif not isinstance(child, dict | list):
            raise ConfigError(
                f"command line: {dotted_key}: {format_key_path(keys[: i + 1])} is {child!r}, which has no keys."
            )
        node[key] = child
        node = child
    return keys


def _split_key(data: Mapping[str, Any], dotted_key: str) -> KeyPath:
    """The path of a dotted key. Under grid and zip, dots may belong to the axis: `grid.decoding.alpha`."""
    words = dotted_key.split(".")
    if words[0] not in KEYS:
        raise ConfigError(f"command line: {dotted_key}: {unknown_key(words[0], data)}")
    if words[0] not in ("grid", "zip") or len(words) == 1:
        is_list = isinstance(data.get(words[0]), list)
        return tuple(int(word) if word.isdigit() and is_list and i == 1 else word for i, word in enumerate(words))
    for i, word in enumerate(words):
        if word.isdigit():
            return (words[0], ".".join(words[1:i]), int(word), *words[i + 1 :])
    return (words[0], ".".join(words[1:]))


def _copy(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _copy(value) for key, value in node.items()}
    return [_copy(item) for item in node] if isinstance(node, list | tuple) else node
