"""Configuration of a logits processor of transformers, or of a user's own `transformers.LogitsProcessor`.

logits_processors: [{name: repetition_penalty, penalty: 1.2}, {name: no_repeat_ngram, ngram_size: 3}]
logits_processors: ['mine.py:Mine']

A name is the class name in transformers without `LogitsProcessor`, in any casing, or the path of a class.
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from icl import ConfigError, code_digest, did_you_mean, import_path, load_class, transformers

SUFFIX = "LogitsProcessor"


@dataclass(frozen=True)
class LogitsProcessorConfig:
    """A logits processor with its parameters.

    Attributes:
        name: Name or path of the class.
        parameters: JSON object of the constructor's arguments. It is a string, so that equal configs have equal hashes.
    """

    name: str
    parameters: str = "{}"

    def build(self) -> Any:
        """The `transformers.LogitsProcessor`."""
        return _processor_class(self.name, "")(**json.loads(self.parameters))

    def describe(self) -> dict[str, Any]:
        """The canonical config node. For a user's own class it includes the digest of the file."""
        parameters: dict[str, Any] = json.loads(self.parameters)
        if ":" not in self.name:
            return {"name": self.name, **parameters}
        cls = _processor_class(self.name, "")
        return {"name": import_path(cls), "code": code_digest(cls), **parameters}

    @property
    def label(self) -> str:
        """'repetition_penalty(penalty=1.2)'."""
        name = self.name.rpartition(":")[2]
        parameters = ", ".join(f"{key}={value}" for key, value in json.loads(self.parameters).items())
        return f"{name}({parameters})" if parameters else name


def parse_logits_processors(node: Any, where: str = "") -> tuple[LogitsProcessorConfig, ...]:
    """Parses a list of logits processors. Each is built once, so that a wrong parameter fails early.

    Raises:
        ConfigError: An unknown name, or parameters that the class does not accept.
    """
    if not isinstance(node, list | tuple):
        raise ConfigError(
            f"{where}: logits_processors must be a list such as [{{name: repetition_penalty, penalty: 1.2}}], "
            f"not {node!r}."
        )
    return tuple(_parse(one, f"{where}[{i}]") for i, one in enumerate(node))


def _parse(node: Any, where: str) -> LogitsProcessorConfig:
    if isinstance(node, LogitsProcessorConfig):
        return node
    if isinstance(node, str):
        node = {"name": node}
    if not isinstance(node, Mapping) or not isinstance(node.get("name"), str):
        raise ConfigError(f"{where}: a logits processor must be a name or a mapping with the key 'name', not {node!r}.")
    parameters = {str(key): value for key, value in node.items() if key != "name"}
    cls = _processor_class(node["name"], where)
    names = [name for name in inspect.signature(cls).parameters if name != "device"]
    for key in parameters:
        if key not in names:
            raise ConfigError(
                f"{where}: {cls.__name__} has no parameter '{key}'.{did_you_mean(key, names)} "
                f"It has {', '.join(names) or 'none'}."
            )
    config = LogitsProcessorConfig(node["name"], json.dumps(parameters, sort_keys=True))
    try:
        config.build()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {cls.__name__}: {error}.") from error
    return config


def _processor_class(name: str, where: str) -> type[Any]:
    if ":" in name:
        cls = load_class(name, where)
        if not issubclass(cls, transformers.LogitsProcessor):
            raise ConfigError(f"{where}: {name} is not a transformers.LogitsProcessor.")
        return cls
    classes: dict[str, type[Any]] = {
        _normalize(key): value
        for key, value in vars(transformers.generation.logits_process).items()
        if key.endswith(SUFFIX) and key != SUFFIX
    }
    if _normalize(name) not in classes:
        names = [one.__name__.removesuffix(SUFFIX) for one in classes.values()]
        raise ConfigError(f"{where}: transformers has no logits processor '{name}'.{did_you_mean(name, names)}")
    return classes[_normalize(name)]


def _normalize(name: str) -> str:
    return name.removesuffix(SUFFIX).replace("_", "").lower()
