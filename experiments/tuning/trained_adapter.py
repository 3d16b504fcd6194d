"""Trainable parameters inside a loaded model, and the adapter folder that `model.adapter` loads.

peft puts them into the model and writes them. What trains is a subclass: LoRA matrices of the decoder
(`experiments.tuning.lora`), or the projector (`experiments.tuning.projector`).
"""

import logging
import os
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from experiments.config.tuning_keys import TuneSpec
from experiments.tuning.checkpoint import replacement, report_write_errors
from experiments.tuning.trained_part import TrainedPart
from icl.errors import ModelError
from icl.models.hf.adapter import CONFIG, WEIGHTS

if TYPE_CHECKING:
    from icl.models.hf.model import HF


class TrainedAdapter(TrainedPart):
    """Parameters that train inside the model of an engine. At first they change no output bit."""

    def __init__(self, model: "HF", spec: TuneSpec) -> None:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it warns
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise ModelError(
                "icl tune: this needs the package peft, which is not installed (pip install 'mm-icl[adapters]')."
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
    def _settings(self, model: "HF", spec: TuneSpec) -> dict[str, Any]:
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
        from safetensors.torch import save_file

        with report_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        tensors = get_peft_model_state_dict(self.peft, save_embedding_layers=False)
        with replacement(folder / WEIGHTS[0]) as part:
            save_file({name: one.detach().cpu().contiguous() for name, one in tensors.items()}, part)
        inference_mode, self.config.inference_mode = self.config.inference_mode, True
        with report_write_errors(folder / CONFIG), TemporaryDirectory(prefix=".", dir=folder) as parts:
            self.config.save_pretrained(parts)
            os.replace(Path(parts) / CONFIG, folder / CONFIG)
        self.config.inference_mode = inference_mode
