"""Tensors of an intervention, which train beside a loaded model whose weights are fixed.

They are written as `icl fit` writes vectors, so `intervene: {name: NAME, fitted: FOLDER/vectors.safetensors}` reads
them.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import nn

from decoding.interventions.base import FittedTensors
from decoding.interventions.vector_file import write_vector_file
from experiments.config.tuning_keys import TuneSpec
from experiments.tuning.checkpoint import report_write_errors
from experiments.tuning.trained_part import TrainedPart
from icl.registry import build, class_name

if TYPE_CHECKING:
    from icl.models.hf.model import HF
    from icl.types import Prompt

VECTOR_FILE = "vectors.safetensors"


class TrainedVectors(TrainedPart):
    """The tensors of an intervention that train.

    Attributes:
        method: The intervention.
        trained: Its tensors as they are now, and its other values.
    """

    def __init__(self, model: "HF", spec: TuneSpec, prompts: "Iterable[Prompt]", record: Mapping[str, Any]) -> None:
        """Starts from the file that the intervention names, or as the method starts.

        Args:
            model: The loaded model. Its weights get no gradients.
            spec: The settings.
            prompts: Prompts of the training in their order.
            record: What the file says about the training.
        """
        self.method: Any = build("intervention", spec.intervene)  # `tune` has refused one that does not train
        self.model, self.record = model, {**record, "width": model.sites.width}
        self.reads_demonstrations = self.method.reads_demonstrations
        model.engine.runner.model.requires_grad_(False)
        if self.method.fitted:
            self.method.check(model)
            file = self.method.file
            start = FittedTensors({self.method.tensor: file.tensors[self.method.tensor]}, file.parameters, {})
        else:
            start = self.method.start(model, prompts, spec.seed)
        device = model.engine.runner.device
        self.parameters = {
            name: nn.Parameter(one.detach().float().to(device).clone()) for name, one in start.tensors.items()
        }
        self.trained = replace(start, tensors=self.parameters)

    def prompts(self, prompts: "Sequence[Prompt]") -> "Sequence[Prompt]":
        steered: Sequence[Prompt] = self.method.steered_by(self.trained, prompts, self.model)
        return steered

    def save(self, folder: Path) -> None:
        path = folder / VECTOR_FILE
        with report_write_errors(path), TemporaryDirectory(prefix=".", dir=folder) as parts:
            part = Path(parts) / VECTOR_FILE
            write_vector_file(
                part,
                class_name(type(self.method)),
                tensors={name: one.detach().cpu() for name, one in self.parameters.items()},
                parameters=self.trained.parameters,
                record=self.record,
                report={},
            )
            for suffix in (path.suffix, ".json"):
                os.replace(part.with_suffix(suffix), path.with_suffix(suffix))
