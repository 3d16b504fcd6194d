"""A YAML file as plain data that remembers its lines, so that an error can say `contrast.yaml:11: grid.decoding[1]`.

Only plain data is built (no tags that make objects), with the booleans and numbers of YAML 1.2: `[yes, no]` are two
strings, `1e-3` is a number, a date is a string. A key written twice is an error instead of the last one winning.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import yaml

from icl.errors import ConfigError

KeyPath = tuple[str | int, ...]
"""A place in a document: ('grid', 'decoding', 1)."""

PLAIN = frozenset({"map", "seq", "str", "int", "float", "bool", "null"})
MAX_NODES = 100_000
"""More than an experiment needs; aliases of aliases grow without end."""


@dataclass(frozen=True)
class Document:
    """name: what errors call the file. lines: line of every place. given: places that the command line wrote."""

    name: str
    folder: Path
    data: dict[str, Any]
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    given: frozenset[KeyPath] = frozenset()

    def where(self, *keys: str | int) -> str:
        """'contrast.yaml:11: grid.decoding[1]', by the nearest place that has a line."""
        told = format_key_path(keys)
        places = [keys[:end] for end in range(len(keys), 0, -1)]
        if any(place in self.given for place in places):
            return f"command line: {told}"
        line = next((self.lines[place] for place in places if place in self.lines), None)
        if line is not None:
            return f"{self.name}:{line}: {told}"
        return f"{self.name}: {told}" if told else self.name


def format_key_path(keys: Sequence[str | int]) -> str:
    """('grid', 'decoding', 1) -> 'grid.decoding[1]'."""
    told = ""
    for key in keys:
        told += f"[{key}]" if isinstance(key, int) else f".{key}" if told else key
    return told


def read_document(path: Path) -> Document:
    """The document of a file. Raises ConfigError with the line of what is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        names = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        near = sorted(names, key=lambda name: -SequenceMatcher(None, path.stem, Path(name).stem).ratio())
        beside = f" Beside it: {', '.join(near[:5])}{', …' * (len(near) > 5)}." if near else ""
        raise ConfigError(f"there is no file {path}.{beside}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    data, lines = parse_yaml(text, str(path))
    if data is None:
        raise ConfigError(f"{path} is empty. An experiment needs at least the keys task and model.")
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: an experiment is a mapping of keys such as task, model and grid, not {data!r:.60}.")
    return Document(str(path), path.parent.resolve(), data, lines)


def parse_yaml(text: str, name: str) -> tuple[Any, dict[KeyPath, int]]:
    """Plain data and the line of every place. name: what an error calls the text."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        build = _Builder(loader, name)
        return build.value(node, ()), build.lines
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{name}{line}: not valid YAML: {error.problem or error.context}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {error}.") from error
    except RecursionError as error:
        raise ConfigError(
            f"{name}: lists or mappings are nested too deeply. An experiment needs a few levels."
        ) from error


def to_flow_yaml(value: Any) -> str:
    """A value as YAML writes it within a line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {to_flow_yaml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(to_flow_yaml, value))}]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z<]([\w<>…./ -]*[\w>…./-])?", value) and value not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)


_WORDS = ("null", "true", "false", "yes", "no", "on", "off")


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's idea of booleans, floats and dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        letter: [(tag, rule) for tag, rule in rules if not tag.endswith((":bool", ":float", ":int", ":timestamp"))]
        for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|nan))$"),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver(  # as before without sixties: 2:00:00 is a time, and no number of seconds
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(?:0b[0-1_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)


class _Builder:
    def __init__(self, loader: yaml.SafeLoader, name: str) -> None:
        self.loader, self.name = loader, name
        self.lines: dict[KeyPath, int] = {}
        self.seen = 0
        self.open: set[int] = set()

    def value(self, node: yaml.Node, keys: KeyPath) -> Any:
        self.seen += 1
        if self.seen > MAX_NODES:
            raise ConfigError(f"{self.name}: more than {MAX_NODES:,} values. Are its aliases nested?")
        if id(node) in self.open:
            raise self._error(node, "an alias that contains itself")
        if node.tag.removeprefix("tag:yaml.org,2002:") not in PLAIN:
            raise self._error(node, f"the tag {node.tag} makes an object; only plain values are allowed")
        self.lines.setdefault(keys, node.start_mark.line + 1)
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return dict(self._items(node, keys))
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*keys, i)) for i, item in enumerate(node.value)]
            return self._scalar(node)
        finally:
            self.open.discard(id(node))

    def _items(self, node: yaml.MappingNode, keys: KeyPath) -> Iterator[tuple[str, Any]]:
        written: dict[str, int] = {}
        for key, _ in node.value:
            name = str(key.value)
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "a key must be a word")
            if name in written:
                told = format_key_path((*keys, name))
                raise ConfigError(
                    f"{self.name}:{line}: {told} is written twice (first in line {written[name]}). Keep one."
                )
            written[name] = line
        self.loader.flatten_mapping(node)  # `<<: *base`; own keys come later and win
        for key, value in node.value:
            place = (*keys, str(key.value))
            self.lines[place] = key.start_mark.line + 1
            yield str(key.value), self.value(value, place)

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            return self.loader.construct_object(node, deep=True)
        except ValueError as error:
            raise self._error(node, str(error)) from error

    def _error(self, node: yaml.Node, problem: str) -> ConfigError:
        return ConfigError(f"{self.name}:{node.start_mark.line + 1}: {problem}.")
