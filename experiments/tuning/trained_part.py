"""What `icl tune` trains: parameters inside a loaded model, or tensors beside it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from icl.models.hf.image_features import EncodedImage

if TYPE_CHECKING:
    from icl.types import Prompt


class TrainedPart(ABC):
    """Base of what trains.

    Attributes:
        parameters: Name -> trainable parameter.
        reads_demonstrations: Whether it is made of the prompt's demonstrations, so that `distill` keeps them.
    """

    parameters: dict[str, nn.Parameter]
    reads_demonstrations: bool = False

    def prompts(self, prompts: "Sequence[Prompt]") -> "Sequence[Prompt]":
        """The prompts of a step as the model reads them now."""
        return prompts

    def image_features(self, images: Sequence[EncodedImage]) -> Sequence[EncodedImage]:
        """The images of a batch with the features that the model reads now."""
        return images

    def disabled(self) -> AbstractContextManager[None]:
        """A block in which the model is the base model."""
        return nullcontext()

    def without_dropout(self) -> AbstractContextManager[None]:
        """A block without dropout."""
        return nullcontext()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copies weights into the parameters, by name."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes the result into its folder. Each file is replaced in one step. Raises StoreError if that fails."""

    def close(self) -> None:  # noqa: B027 most parts have nothing to end
        """Ends the training. A model stays loaded with the trained parameters."""
