"""Base class of methods whose tensors `icl tune` trains (`tune.parameters: vectors`).

    tune: {task: ..., parameters: vectors, intervene: m2iv, objective: distill}

The training loop computes the loss under the interventions of `steered_by`, whose gradients reach the tensors. The
weights of the model stay fixed. The file is that of `icl fit`, so `intervene: {name: m2iv, fitted: FILE}` reads it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from decoding.interventions.base import Control, FittedMethod, FittedTensors
from decoding.interventions.gradient_fit import unnamed
from icl.errors import ConfigError
from icl.models.interventions import Intervention, steer
from icl.registry import class_name
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.interventions.fit_data import FitData
    from icl.models.hf.model import HF


@dataclass(frozen=True)
class TrainableMethod(FittedMethod):
    """Base of methods whose tensors can be trained by the loss of answers.

    A subclass defines `start`, and either `edit` and `intervention`, or `steered` and `steered_by`.
    """

    available_controls: ClassVar[tuple[Control, ...]] = ("random",)

    def start(self, model: "HF", prompts: Iterable[Prompt], seed: int) -> FittedTensors:
        """What training begins with. All of its tensors are trained.

        Args:
            model: The loaded model.
            prompts: Prompts of the training in their order, maybe without end.
            seed: Seed of random numbers.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define `start`")

    def edit(self, tensor: "Tensor", parameters: Mapping[str, Any]) -> Intervention:
        """The edit that the tensor named by `tensor` makes, with the parameters of its file."""
        raise NotImplementedError(f"{type(self).__name__} does not define `edit`")

    def steered_by(self, trained: FittedTensors, prompts: Sequence[Prompt], model: "HF") -> Sequence[Prompt]:
        """The prompts as they are read under tensors that are in training.

        Their interventions keep the graph of the tensors, and their digests do not name the values.

        Args:
            trained: The tensors as they are now, with the other values of `start`.
            prompts: Prompts of a training step.
            model: The loaded model, whose states may be observed.
        """
        edit = unnamed(self.edit(trained.tensors[self.tensor], trained.parameters))
        return [steer(prompt, edit) for prompt in prompts]

    @classmethod
    def has_fit(cls) -> bool:
        """Whether `icl fit` fits it, too."""
        return cls.fit is not TrainableMethod.fit

    def problem(self) -> str | None:
        return super().problem() if self.fitted or self.has_fit() else self._how

    def fit(self, data: "FitData") -> FittedTensors:
        raise ConfigError(self._how)

    @property
    def _how(self) -> str:
        name = class_name(type(self))
        return (
            f"'{name}' is trained by `icl tune`, with `tune: {{parameters: vectors, intervene: {name}, …}}`. Then name "
            f"its file: {{name: {name}, fitted: adapters/NAME/tuned/vectors.safetensors}}."
        )
