"""Adapters for the tiny checkpoints."""

from pathlib import Path

import peft
import torch
from reference import Reference

LANGUAGE = r".*language_model.*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def saved(base: Path, folder: Path, targets: str = LANGUAGE, rank: int = 4, seed: int = 0) -> Path:
    """A LoRA with numbers in both of its factors."""
    made = peft.get_peft_model(
        Reference(base).model, peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    )
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.15, generator=draw)
    made.save_pretrained(folder)
    return folder
