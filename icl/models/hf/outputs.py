"""The shape in which features are handed to a forward (the return type of `get_image_features`)."""

from dataclasses import dataclass
from typing import Any

from transformers.modeling_outputs import BaseModelOutputWithPooling


@dataclass
class Features(BaseModelOutputWithPooling):  # type: ignore[misc]
    """deepstack_features: one entry a layer, for architectures that add features inside the language model."""

    deepstack_features: Any = None
