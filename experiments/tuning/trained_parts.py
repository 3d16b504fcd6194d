"""What `icl fit` trains: parameters inside a loaded model, or tensors of an intervention next to it.

    lora        LoRA matrices (Hu et al., ICLR 2022) in linear modules of the decoder. Features of images are cached, so
                the vision tower cannot learn
    projector   all weights of the projector (`experiments.tuning.projector`); new_projector: from random first weights
    vectors     tensors of an intervention; the model's weights are fixed. They are written as `icl fit` writes
                vectors: `intervene: {name: NAME, fitted: FOLDER/vectors.safetensors}` reads them

peft puts LoRA matrices and copies of the projector into the model, and writes the folder that `model.adapter` loads.
"""

import logging
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor, nn

from decoding import FittedTensors
from decoding.interventions.vector_file import write_vector_file
from experiments.config.keys import TuneSpec
from experiments.tuning.checkpoint import replacement, report_write_errors
from icl import ConfigError, ModelError, Prompt, build, class_name, did_you_mean, safetensors
from icl.models.hf import HF, EncodedImage
from icl.models.hf.adapter import CONFIG, WEIGHTS


class TrainedPart(ABC):
    """Base of what trains.

    Attributes:
        parameters: Name -> trainable parameter.
        reads_demonstrations: Whether it is made of the prompt's demonstrations, so that `distill` keeps them.
    """

    parameters: dict[str, nn.Parameter]
    reads_demonstrations: bool = False

    def prompts(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
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


class TrainedAdapter(TrainedPart):
    """Parameters that train inside the model of an engine. At first, only a new projector changes outputs."""

    def __init__(self, model: HF, spec: TuneSpec) -> None:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it warns
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise ModelError(
                "icl fit: this needs the package peft, which is not installed (pip install 'mm-icl[adapters]')."
            ) from error
        self.config = LoraConfig(**self._settings(model, spec))
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft calls names of transformers that are deprecated
            torch.manual_seed(spec.seed)
            self.peft: Any = get_peft_model(model.engine.runner.model, self.config)
        self.config.base_model_name_or_path = model.path  # peft writes the folder of the weights
        self.peft.eval()
        self.dropouts = [one for name, one in self.peft.named_modules() if name.endswith("lora_dropout.default")]
        self._set_dropout(True)
        self.parameters: dict[str, nn.Parameter] = {
            name: one for name, one in self.peft.named_parameters() if one.requires_grad
        }

    @abstractmethod
    def _settings(self, model: HF, spec: TuneSpec) -> dict[str, Any]:
        """The arguments of peft's config that say what trains. Raises ConfigError, ModelError."""

    def close(self) -> None:
        self.peft.requires_grad_(False)

    def disabled(self) -> AbstractContextManager[None]:
        return cast("AbstractContextManager[None]", self.peft.disable_adapter())

    @contextmanager
    def without_dropout(self) -> Iterator[None]:
        self._set_dropout(False)
        try:
            yield
        finally:
            self._set_dropout(True)

    def _set_dropout(self, on: bool) -> None:
        for module in self.dropouts:
            module.train(on)

    def save(self, folder: Path) -> None:
        from peft import get_peft_model_state_dict

        with report_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        tensors = get_peft_model_state_dict(self.peft, save_embedding_layers=False)
        with replacement(folder / WEIGHTS[0]) as part:
            safetensors.torch.save_file({name: one.detach().cpu().contiguous() for name, one in tensors.items()}, part)
        inference_mode, self.config.inference_mode = self.config.inference_mode, True
        with report_write_errors(folder / CONFIG), TemporaryDirectory(prefix=".", dir=folder) as parts:
            self.config.save_pretrained(parts)
            os.replace(Path(parts) / CONFIG, folder / CONFIG)
        self.config.inference_mode = inference_mode


class TrainedLora(TrainedAdapter):
    """LoRA matrices that train inside the model of an engine."""

    def _settings(self, model: HF, spec: TuneSpec) -> dict[str, Any]:
        runner = model.engine.runner
        return {
            "r": spec.rank,
            "lora_alpha": spec.alpha,
            "lora_dropout": spec.dropout,
            "target_modules": target_modules(runner.model, runner.sites.layers, spec.modules),
        }


def target_modules(model: nn.Module, layers: "list[nn.Module]", names: tuple[str, ...]) -> list[str]:
    """Full names of the linear modules in the decoder's layers with one of these as last name. Raises ConfigError."""
    inside = {id(module) for layer in layers for module in layer.modules() if isinstance(module, nn.Linear)}
    linear = [name for name, module in model.named_modules() if id(module) in inside]
    chosen = [name for name in linear if name.rpartition(".")[2] in names]
    existing = dict.fromkeys(name.rpartition(".")[2] for name in linear)
    missing = next((name for name in names if name not in existing), None)
    if missing is not None:
        raise ConfigError(
            f"tune.modules: the decoder has no linear module '{missing}'.{did_you_mean(missing, existing)} It has "
            f"{', '.join(existing)}."
        )
    return chosen


VECTOR_FILE = "vectors.safetensors"


class TrainedVectors(TrainedPart):
    """The tensors of an intervention that train.

    Attributes:
        method: The intervention.
        trained: Its tensors as they are now, and its other values.
    """

    def __init__(self, model: HF, spec: TuneSpec, prompts: Iterable[Prompt], record: Mapping[str, Any]) -> None:
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

    def prompts(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
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
