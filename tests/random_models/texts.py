"""Language models that read text only, with random weights: a class, a chat template, and no processor."""

from pathlib import Path
from typing import Any

import torch
import transformers

from tests.random_models.common import Size, text_settings, tokenizer
from tests.random_models.make import draw_weights

TRIMS = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] | trim }}</turn>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""A template that writes the start token, and reads contents as strings without saying so, as Llama 3's."""

STRINGS = (
    "{% for message in messages %}<{{ message['role'] }}>\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% endif %}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
"""A template that drops contents which are no strings, as Qwen3's."""

TEMPLATES = {"llama": TRIMS, "qwen3": STRINGS, "llama_base": None}


def save_text(name: str, folder: Path, seed: int = 0, size: Size = Size()) -> Path:  # noqa: B008  (it is frozen)
    """A checkpoint of a language model in `folder`: 'llama', 'qwen3', or 'llama_base' without a chat template."""
    words = tokenizer({}, ("<begin>",))
    words.chat_template = TEMPLATES[name]
    settings: dict[str, Any] = text_settings(words, size)
    if name != "qwen3":
        words.bos_token = "<begin>"
        settings["bos_token_id"] = words.bos_token_id
    kind = transformers.Qwen3Config if name == "qwen3" else transformers.LlamaConfig
    config = kind(**settings, head_dim=size.width // 4)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    draw_weights(model, seed)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
