"""Makes a twin from its text file: a builder of `tests.random_models`, and what the published model sets.

The keys of `models/NAME.yaml`:

model       the published checkpoint
also        further checkpoints that differ in size alone
builder     the function of `tests.random_models` that makes classes of the same architecture at a small size
layers      the number of layers of the language model, at least one period of its pattern
width       the width of the language model, for real head sizes
images      whether it reads images, so that the table of models has a row
template    the folder of its published chat template, or the variable of a package that holds it; none if it is not
            to be had
shape       the template of `shapes/` that replaces the published one where there is none; "" if the model has none
special     the special tokens by role: bos_token, eos_token, pad_token
tokens      further special tokens
words       further tokens that are not special, such as <think>
adds_bos    whether the tokenizer puts the start token before a text
stop        the tokens that end an answer
config      keys of config.json, merged into the builder's; a string for a token id is that token
processor   keys of processor_config.json, merged one level deep
generation  further keys of generation_config.json
cause       why vLLM does otherwise than `hf`, where it is known; a line of the table of models
files       further files of the release that the class loads, which are empty here
type, code  instead of a builder, for a checkpoint whose classes are not those of transformers: `model_type`, and its
            keys that name Python code
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file

from icl.errors import ConfigError, did_you_mean
from tests.published_templates import SHARED
from tests.random_models.common import WORDS, Made, Size
from tests.random_models.make import ARCHITECTURES, merge, write
from tests.random_models.published_weights import write_as_published
from tests.random_models.twins.builders import MAKERS

HERE = Path(__file__).parent
WIDTH = 128
"""The width of language models: vLLM's attention for CPUs needs heads of at least 32."""


@dataclass(frozen=True)
class Twin:
    """The text file of a twin; its keys are explained in this module."""

    name: str
    model: str
    builder: str = ""
    shape: str = ""
    also: tuple[str, ...] = ()
    images: bool = True
    template: str | None = None
    layers: int = 2
    width: int = WIDTH
    special: Mapping[str, str] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    adds_bos: bool = False
    stop: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    cause: str = ""
    type: str = ""
    code: Mapping[str, Any] = field(default_factory=dict)

    @property
    def published_template(self) -> str | None:
        """The text of the published template, if it is there."""
        if self.template is None:
            return None
        module, _, variable = self.template.partition(":")
        if variable:
            return str(getattr(import_module(module), variable))
        path = SHARED / self.template / "chat_template.jinja"
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def template_text(self, slot: str) -> str | None:
        """The chat template, if the model has one. slot: the text of an image."""
        if not self.shape:
            return None
        own = HERE / "shapes" / f"{self.shape}.jinja"
        return self.published_template or own.read_text(encoding="utf-8").replace("SLOT", slot)


@cache
def twins() -> Mapping[str, Twin]:
    """All twins by name, in the order of their names. Raises ConfigError for a key that a twin does not have."""
    return {path.stem: _read(path) for path in sorted((HERE / "models").glob("*.yaml"))}


def _read(path: Path) -> Twin:
    keys = YAML(typ="safe", pure=True).load(path)
    for name in ("also", "files", "tokens", "words", "stop"):
        keys[name] = tuple(keys.get(name, ()))
    try:
        return Twin(path.stem, **keys)
    except TypeError as error:
        raise ConfigError(f"{path.name}: {error}") from error


def twin_of(model: str) -> str:
    """The name of the twin of a published checkpoint. Raises ConfigError if there is none."""
    for name, twin in twins().items():
        if model in (twin.model, *twin.also):
            return name
    raise ConfigError(f"there is no twin of {model}.")


def save_twin(name: str, folder: Path, seed: int = 0, *, own_template: bool = False) -> Path:
    """The twin `name` as a checkpoint in `folder`.

    Args:
        name: A file of `models/`.
        folder: Where to write it.
        seed: The seed of the weights.
        own_template: Whether to use the project's own template although the published one is there.

    Raises:
        ConfigError: For an unknown name.
    """
    if name not in twins():
        raise ConfigError(f"no twin named '{name}'.{did_you_mean(name, twins())} There are {', '.join(twins())}.")
    twin = twins()[name]
    twin = replace(twin, template=None) if own_template else twin
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(_card(twin), encoding="utf-8")
    if twin.type:
        save_file({}, folder / "model.safetensors")
        for file in ("config.json", "preprocessor_config.json"):
            (folder / file).write_text(json.dumps({"model_type": twin.type, **twin.code}) + "\n", encoding="utf-8")
        return folder
    made = _parts(twin)
    write(made, folder, seed)
    for file in twin.files:
        torch.save({}, folder / file)
    words = made.processor.tokenizer
    special = sorted(words.convert_tokens_to_ids(list({*words.all_special_tokens, *_added(words)})))
    if twin.processor:
        _rewrite(folder / "processor_config.json", lambda keys: _merge_parts(keys, twin.processor))
    ends = {"eos_token_id": [words.convert_tokens_to_ids(token) for token in twin.stop]}
    _rewrite(folder / "generation_config.json", lambda keys: {**keys, **ends, **twin.generation})
    write_as_published(folder, special)
    return folder


def _parts(twin: Twin) -> Made:
    made = {**ARCHITECTURES, **MAKERS}[twin.builder](Size(width=twin.width, layers=twin.layers))
    words = made.processor.tokenizer
    _add_tokens(words, twin)
    made.processor.chat_template = twin.template_text(made.slot)
    ids = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id, "bos_token_id": words.bos_token_id}
    keys = made.config.to_dict()
    own = {"text_config": ids} if "text_config" in keys else {}
    keys = merge(merge(keys, {**ids, **own}), _with_ids(twin.config, words))
    config = type(made.config).from_dict(_with_vocabulary(keys, len(words)))
    return made._replace(config=config, published=merge(made.published, _only(twin.config, made.published)))


def _only(node: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the node that `keys` has too."""
    return {
        key: _only(node[key], value) if isinstance(value, Mapping) else node[key]
        for key, value in keys.items()
        if key in node
    }


def _add_tokens(words: Any, twin: Twin) -> None:
    from tokenizers import AddedToken, processors

    words.add_tokens([AddedToken(token, special=True, normalized=False) for token in twin.tokens], special_tokens=True)
    words.add_special_tokens(dict(twin.special))
    words.add_tokens([AddedToken(token, special=False, normalized=False) for token in twin.words])
    words.padding_side = "left"
    if twin.adds_bos:
        start = [(words.bos_token, words.bos_token_id)]
        words.backend_tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(f"{words.bos_token} $A", None, start),
            ]
        )


def _added(words: Any) -> list[str]:
    """The special tokens that have no role."""
    return [str(token) for token in words.added_tokens_decoder.values() if token.special]


def _with_ids(node: Any, words: Any, key: str = "") -> Any:
    """The node with the ids of tokens that keys of ids name."""
    if isinstance(node, Mapping):
        return {name: _with_ids(value, words, name) for name, value in node.items()}
    if isinstance(node, list) and key.endswith(("_id", "_index")):
        return [_with_ids(value, words, key) for value in node]
    if isinstance(node, str) and key.endswith(("_id", "_index")):
        return words.convert_tokens_to_ids(node)
    return node


def _with_vocabulary(node: Any, size: int) -> Any:
    """The config with room for all tokens."""
    if not isinstance(node, Mapping):
        return node
    room = max(WORDS, -(-size // 64) * 64)
    return {
        key: room if value == WORDS and "vocab" in key else _with_vocabulary(value, size) for key, value in node.items()
    }


def _merge_parts(keys: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a processor whose parts have further keys."""
    return {**keys} | {
        name: {**keys.get(name, {}), **value} if isinstance(value, Mapping) else value for name, value in more.items()
    }


def _rewrite(path: Path, change: Any) -> None:
    keys = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(keys), indent=2) + "\n", encoding="utf-8")


def _card(twin: Twin) -> str:
    own = f"this project's own, in the shape '{twin.shape}'" if twin.shape else "missing, as in the release"
    source = "the published one" if twin.published_template else own
    return (
        f"A twin of {twin.model} with random weights, for tests. Its chat template is {source}.\n\n"
        "Real: the classes, the pattern of layers, the settings of config, processor and generation in "
        f"`models/{twin.name}.yaml`, the special tokens. Not real: widths, the number of layers, weights, and the "
        "tokenizer, which has bytes and special tokens alone.\n"
    )
