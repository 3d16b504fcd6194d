"""Features of images for a forward pass."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

from icl.models.hf.image_features import EncodedImage, vision_arguments


@dataclass
class TowerOutput(ModelOutput):
    """An output as that of timm's towers, one of whose fields has no default."""

    last_hidden_state: torch.Tensor
    pooler_output: torch.Tensor | None = None


def test_a_field_that_an_output_requires_and_no_forward_pass_reads_is_none() -> None:
    parts = [
        EncodedImage((str(i), False), "<image>", TowerOutput, {"pooler_output": torch.full((2, 3), i)}, {})
        for i in range(2)
    ]
    output = vision_arguments(parts)["mm_encoder_outputs"]["image"]
    assert isinstance(output, TowerOutput)
    assert output.last_hidden_state is None
    assert output.pooler_output[:, 0].tolist() == [0, 0, 1, 1]
