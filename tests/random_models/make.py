"""Writes a random checkpoint of an architecture into a folder, for `from_pretrained` to read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from icl.errors import ConfigError, did_you_mean
from icl.models.hf.conventions import auto_class
from tests.random_models import (
    codebooks,
    crops,
    crossing,
    derived,
    documents,
    gemmas,
    glms,
    hybrids,
    llavas,
    merging,
    others,
    qwens,
    splitting,
)
from tests.random_models.common import TEMPLATE, Made, Maker, Size

FAMILIES = (
    llavas,
    splitting,
    crops,
    qwens,
    merging,
    glms,
    gemmas,
    documents,
    others,
    derived,
    hybrids,
    crossing,
    codebooks,
)
ARCHITECTURES: Mapping[str, Maker] = {name: make for family in FAMILIES for name, make in family.MAKERS.items()}

PLAIN = Size()


def save(name: str, folder: Path, size: Size = PLAIN, seed: int = 0) -> Path:
    """A checkpoint of the architecture `name` in `folder`. Raises ConfigError for an unknown name."""
    if name not in ARCHITECTURES:
        names = ", ".join(ARCHITECTURES)
        raise ConfigError(f"no architecture named '{name}'.{did_you_mean(name, ARCHITECTURES)} There are {names}.")
    made = ARCHITECTURES[name](size)
    made.processor.chat_template = TEMPLATE.replace("SLOT", made.slot)
    return write(made, folder, seed)


def write(made: Made, folder: Path, seed: int = 0) -> Path:
    """A checkpoint of these parts in `folder`."""
    config, processor, _, published = made
    with torch.random.fork_rng():  # for parameters that the class initializes itself
        torch.manual_seed(seed)
        model = auto_class(config).from_config(config).float().eval()
    draw_weights(model, seed)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    model_config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(merge(model_config, published), indent=2) + "\n", encoding="utf-8")
    return folder


def merge(config: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The config with further keys, merged at all levels."""
    return {**config} | {
        key: merge(config.get(key) or {}, value) if isinstance(value, Mapping) else value for key, value in more.items()
    }


def draw_weights(model: torch.nn.Module, seed: int) -> None:
    """Initializes matrices with unit gain and word vectors with unit scale, in the order of the parameters, and opens
    gates.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
            elif parameter.numel() == 1 and not parameter.any():
                parameter.fill_(1)  # a gate, which is closed before training
        reader = getattr(model, "thinker", model)  # the part of a model that also speaks
        reader.get_input_embeddings().weight.normal_(0, 1, generator=generator)  # type: ignore[operator]
