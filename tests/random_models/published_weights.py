"""Weights in the form of published checkpoints, which vLLM reads."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

OLD_NAME = r"^((?:model\.)?vision_tower\.)(?!vision_model)"
"""Names of weights without `vision_model.`, as transformers 5 writes them; published checkpoints and vLLM have it."""
EXPERTS = re.compile(r"language_model\..*\.mlp\.experts\.(gate_up|down)_proj$")
"""Weights that are transposed in published checkpoints; transformers 5 detects this from the shapes."""
OLD_TOWERS = ("clip_vision_model", "siglip_vision_model", "siglip2_vision_model")


def write_as_published(folder: Path, unlikely: Sequence[int] = ()) -> None:
    """Rewrites the weights of a checkpoint.

    Args:
        folder: The checkpoint.
        unlikely: Tokens whose logits are scaled down, such as image placeholders, which no trained model writes.
    """
    from safetensors.torch import load_file, save_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    old = OLD_NAME if (config.get("vision_config") or {}).get("model_type") in OLD_TOWERS else None
    weights = {
        re.sub(old, r"\1vision_model.", key) if old else key: weight
        for key, weight in load_file(folder / "model.safetensors").items()
    }
    for key in (key for key in weights if EXPERTS.search(key)):
        weights[key] = weights[key].transpose(1, 2).contiguous()
    heads = [key for key in weights if key.endswith("lm_head.weight") or key == "output.weight"]
    if config.get("tie_word_embeddings"):
        for key in heads:
            del weights[key]
        heads = [key for key in weights if key.endswith("embed_tokens.weight")]
        for key in heads:
            weights[key] /= 8  # so that the input token does not decide the output alone
    for key in heads:
        weights[key][list(unlikely)] /= 8
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
