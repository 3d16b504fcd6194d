"""LoRA matrices in the decoder of a loaded model (Hu et al., ICLR 2022).

Only linear modules of the decoder get them. Features of images are cached, so the vision tower cannot learn.
"""

from typing import TYPE_CHECKING, Any

from torch import nn

from experiments.config.tuning_keys import TuneSpec
from experiments.tuning.trained_adapter import TrainedAdapter
from icl.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from icl.models.hf.model import HF


class TrainedLora(TrainedAdapter):
    """LoRA matrices that train inside the model of an engine."""

    def _settings(self, model: "HF", spec: TuneSpec) -> dict[str, Any]:
        runner = model.engine.runner
        return {
            "r": spec.rank,
            "lora_alpha": spec.alpha,
            "lora_dropout": spec.dropout,
            "target_modules": target_modules(runner.model, runner.sites.layers, spec.modules),
        }


def target_modules(model: nn.Module, layers: "list[nn.Module]", names: tuple[str, ...]) -> list[str]:
    """Full names of the linear modules in the decoder's layers whose last name is one of these. Raises ConfigError."""
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
