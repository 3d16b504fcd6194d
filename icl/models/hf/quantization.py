"""Weights in 4 or 8 bits by bitsandbytes while they load, and checks of checkpoints that are already quantized.

nf4, fp4: 4-bit codes with one scale for 64 weights (QLoRA, Dettmers et al., NeurIPS 2023). Double quantization stores
the scales in 8 bits. int8: LLM.int8 (Dettmers et al., NeurIPS 2022), rows in 8 bits and outlier columns in 16. The plan
of a run tests on a small layer whether this machine supports it, before any weights are read.
"""

import logging
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from icl import ModelError, first_line, torch, transformers
from icl.models.hf import (
    PACKED,
    Checkpoint,
    conventions,
    device_placement,
    method,
    quantization_settings,
    why_unsupported,
)

logger = logging.getLogger(__name__)


BITS = {"nf4": 4, "fp4": 4, "int8": 8}
PACKING = "support_avx512bf16_for_cpu"

FAILURES = (ImportError, RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, OSError)
"""Exceptions of bitsandbytes, transformers and torch for unsupported quantization."""


@dataclass(frozen=True)
class Quantization:
    """The parameters of a model `hf` that decide how its weights are stored and computed with."""

    path: str
    checkpoint: Checkpoint
    device: str
    device_map: str | None
    dtype: str
    quantize: str
    double_quant: bool
    compute_dtype: str
    outlier_threshold: float
    quantize_vision: bool
    quantize_head: bool
    merge: bool
    trust_remote_code: bool

    def check(self) -> None:
        """Raise ModelError if checkpoint, device or installation do not support the requested quantization."""
        already = method(self.checkpoint)
        kind, place = device_placement.resolve_device(self.device, self.device_map)
        if self.quantize == "none":
            if already and self.merge:
                raise ModelError(
                    f"model.merge: {self.path} is quantized ({already}), and an adapter merged into its weights would "
                    "be rounded to them. Use `merge: false`."
                )
            if already:
                _check_ready(self.path, self.checkpoint, already, place)
            return
        if already:
            raise ModelError(
                f"model.quantize: {self.path} is already quantized by its own config ({already}), but {self.quantize} "
                "is requested as well. Remove `quantize`, or use the checkpoint in full precision."
            )
        if self.quantize_head and getattr(self.checkpoint.config, "tie_word_embeddings", False):
            raise ModelError(
                f"model.quantize_head: the output head of {self.path} is tied to the input embeddings, which are not "
                "quantized. Remove `quantize_head`."
            )
        if find_spec("bitsandbytes") is None:
            raise ModelError(
                f"model.quantize: {self.quantize} needs the package bitsandbytes, which is not installed "
                "(pip install 'mm-icl[quantization]'). Or use `quantize: none`."
            )
        if problem := _problem(self.quantize, place):
            raise ModelError(
                f"model.quantize: {self.quantize} does not work on {kind} here: {problem} Use `quantize: none`, "
                "another device, or a build of bitsandbytes for this one."
            )

    def arguments(self) -> dict[str, Any]:
        """Arguments of `from_pretrained` for quantization. Empty if there is nothing to quantize."""
        if self.quantize == "none" and method(self.checkpoint) in PACKED:
            from icl.models.hf.packed_weights import config

            return {"config": config(self.checkpoint, quantization_settings(self.checkpoint.config_dict))}
        if self.quantize == "none":
            return {}
        _quiet()
        skipped = self._full_precision_modules()
        logger.info("quantizing %s to %s; %d modules stay in full precision", self.path, self.quantize, len(skipped))
        logger.debug("full precision: %s", ", ".join(skipped))
        if self.quantize == "int8":
            how = transformers.BitsAndBytesConfig(
                load_in_8bit=True, llm_int8_threshold=float(self.outlier_threshold), llm_int8_skip_modules=skipped
            )
        else:
            how = transformers.BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type=self.quantize,
                bnb_4bit_use_double_quant=self.double_quant,
                bnb_4bit_compute_dtype=self._product_dtype(),
                llm_int8_skip_modules=skipped,
            )
        return {"quantization_config": how}

    def _product_dtype(self) -> Any:
        """The dtype of products of 4-bit layers: the `compute_dtype` setting, or the dtype of the other layers."""
        name: str = self.compute_dtype
        if name == "auto":
            name = device_placement.resolve_dtype(self.device, self.device_map, self.dtype)
        if name == "auto":
            return getattr(self.checkpoint.config, "dtype", None) or torch.bfloat16
        return getattr(torch, name)

    def _full_precision_modules(self) -> list[str]:
        """Names of the modules that are not quantized: the output head, and everything outside the language model."""
        with torch.device("meta"):
            model = conventions.auto_class(self.checkpoint.config).from_config(
                self.checkpoint.config, trust_remote_code=self.trust_remote_code
            )
        names = {id(module): name for name, module in model.named_modules()}
        head = names.get(id(model.get_output_embeddings()))
        modules = [head] if head and not self.quantize_head else []
        if self.quantize_vision:
            return modules
        decoder = names.get(id(model.get_decoder()), "")
        if not decoder:
            raise ModelError(
                f"model.quantize: {type(model).__name__} does not define which of its modules is the language model "
                "(get_decoder), so the vision tower cannot be excluded. Set `quantize_vision: true`."
            )
        return modules + [name for name in _outside_decoder(model, decoder) if name != head]


def fix_layers(model: Any) -> Any:
    """The loaded model with two corrections of bitsandbytes, so that it is the same on every CPU.

    On some CPUs bitsandbytes repacks 4-bit weights at their first use. It then rounds scales to bfloat16, and fails if
    a layer is not a multiple of 64 wide. This is switched off.

    On every CPU it takes scales from a wrong block if a row is not a whole number of blocks. Such layers are unpacked
    as one row.
    """
    for module in model.modules():
        if hasattr(module, PACKING):
            setattr(module, PACKING, False)
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None and state.shape[-1] % state.blocksize and type(module) is _one_row().__base__:
            module.__class__ = _one_row()
    return model


def is_exact(model: Any) -> bool:
    """Whether a row's logits depend on the batch only up to float32 rounding."""
    how = getattr(getattr(model, "config", None), "quantization_config", None)
    if model.dtype != torch.float32 or how is None or getattr(how, "exact", False):
        return bool(model.dtype == torch.float32)
    return bool(getattr(how, "load_in_4bit", False) and how.bnb_4bit_compute_dtype == torch.float32)


@lru_cache
def _one_row() -> Any:
    """A Linear4bit class that a CPU unpacks as one row of whole blocks."""
    import bitsandbytes as bnb

    class Linear4bit(bnb.nn.Linear4bit):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            if x.device.type != "cpu":
                return super().forward(x)
            state = copy(self.weight.quant_state)
            shape, state.shape = state.shape, torch.Size((1, state.shape.numel()))
            weight = bnb.functional.dequantize_4bit(self.weight.data.view(-1, 1), state).view(shape)
            precision = self.compute_dtype or x.dtype
            bias = None if self.bias is None else self.bias.to(precision)
            return torch.nn.functional.linear(x.to(precision), weight.to(precision), bias).to(x.dtype)

    return Linear4bit


def _check_ready(path: str, checkpoint: Checkpoint, already: str, place: str) -> None:
    settings = quantization_settings(checkpoint.config_dict)
    if already in PACKED:
        if problem := why_unsupported(settings):
            raise ModelError(
                f"model.path: {path} is quantized ({already}), but this backend cannot read it: {problem}. "
                "Use `model: vllm`, which reads more formats, or another checkpoint."
            )
        return
    try:
        quantizer = transformers.quantizers.auto.AutoHfQuantizer.from_config(settings, pre_quantized=True)
        quantizer.validate_environment(device_map={"": place})
    except FAILURES as error:
        raise ModelError(
            f"model.path: {path} is quantized ({already}), but this machine cannot run it: "
            f"{first_line(error)}. Or use the checkpoint in full precision, with `quantize` if it is "
            "too large."
        ) from error


def _outside_decoder(model: Any, decoder: str) -> list[str]:
    """Topmost modules that neither contain the decoder nor lie in it."""
    names, above, at = [], "", model
    for step in decoder.split("."):
        names += [f"{above}{name}" for name, _ in at.named_children() if name != step]
        above, at = f"{above}{step}.", getattr(at, step)
    return names


@lru_cache
def _problem(quantize: str, place: str) -> str:
    """The error of a layer of 64 x 64 weights, or ''."""
    _quiet()
    try:
        import bitsandbytes as bnb

        if BITS[quantize] == 8:
            layer = bnb.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False, threshold=6.0)
            inputs = torch.ones(1, 64, dtype=torch.float16, device=place)
        else:
            layer = bnb.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type=quantize)
            inputs = torch.ones(1, 64, device=place)
        with torch.no_grad():
            outputs = fix_layers(layer).to(place)(inputs)
    except FAILURES as error:
        return f"{first_line(error)}."
    return "" if bool(outputs.isfinite().all()) else "a product of finite numbers is not finite."


def _quiet() -> None:
    """Silence warnings of bitsandbytes, such as one at each forward pass about casts to float16."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
