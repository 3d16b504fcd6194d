"""What training learned, as the file that `icl.models.small` ships."""

import torch
from torch import Tensor, nn

from lab.small.model import SmallModel


def learned_weights(model: SmallModel) -> dict[str, Tensor]:
    """The projector with its scales folded in, and the matrices of LoRA, in bfloat16."""
    first, last = model.projector[0], model.projector[2]
    if not isinstance(first, nn.Linear) or not isinstance(last, nn.Linear):
        raise TypeError("the projector has two linear layers.")
    weights: dict[str, Tensor] = {
        "projector.linear_1.weight": first.weight / model.scale,
        "projector.linear_1.bias": first.bias,
        "projector.linear_2.weight": last.weight * model.norm,
        "projector.linear_2.bias": last.bias * model.norm,
    }
    for name, value in model.language_model.named_parameters():
        if ".lora_" in name:
            short = name.removeprefix("base_model.model.").replace(".default.weight", "")
            weights[f"lora.{short}"] = value
    return {name: value.detach().to(torch.bfloat16).contiguous() for name, value in weights.items()}
