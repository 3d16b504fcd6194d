"""Checkpoints in formats of compressed-tensors are loaded by their own config and run in low precision."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
import torch

from icl.errors import ModelError
from icl.models.hf import prequantized
from icl.models.hf.model import HF

pytest.importorskip("compressed_tensors")

FolderOf = Callable[[str], Path]
LEFT = ["re:.*vision.*", "re:.*projector.*", "re:.*lm_head"]
FORMATS = ("int4", "int8", "fp8")


def compressed(source: Path, folder: Path, kind: str) -> Path:
    """A copy whose language model is quantized by nearest rounding, written as the library writes it."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )
    from compressed_tensors.quantization.utils import calculate_qparams

    weights = {
        "int4": QuantizationArgs(num_bits=4, type="int", symmetric=True, group_size=32, strategy="group"),
        "int8": QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="channel"),
        "fp8": QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy="channel"),
    }[kind]
    each_token = QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy="token", dynamic=True)
    scheme = QuantizationScheme(
        targets=["Linear"], weights=weights, input_activations=each_token if kind == "fp8" else None
    )
    hf = HF(path=str(source))
    model = hf.checkpoint.weights()
    apply_quantization_config(
        model, QuantizationConfig(config_groups={"group_0": scheme}, ignore=LEFT, quantization_status="frozen")
    )
    for layer in model.modules():
        if hasattr(layer, "weight_scale"):
            blocks = layer.weight.data.view(len(layer.weight), -1, 32 if kind == "int4" else layer.weight.shape[1])
            scale, _ = calculate_qparams(blocks.amin(-1), blocks.amax(-1), weights)
            layer.weight_scale.data.copy_(scale)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["ignore"] = LEFT  # as published checkpoints write it
    (folder / "config.json").write_text(json.dumps(config))
    hf.checkpoint.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, folder_of: FolderOf) -> dict[str, Path]:
    return {kind: compressed(folder_of("llava"), tmp_path_factory.mktemp(kind), kind) for kind in FORMATS}


@pytest.mark.parametrize(("kind", "near"), [("int4", 0.95), ("int8", 0.999), ("fp8", 0.98)])
def test_it_loads_by_its_own_config_and_is_near_to_full_precision(
    kind: str, near: float, made: dict[str, Path], folder_of: FolderOf
) -> None:
    few = HF(path=str(made[kind]))
    assert prequantized.method(few.checkpoint) == "compressed-tensors"
    want = HF(path=str(folder_of("llava"))).open(tiny_models.prompts()).logits
    got = few.open(tiny_models.prompts()).logits
    assert few.notes == ()
    assert float((want - got).abs().max()) > 0
    assert float(torch.cosine_similarity(want, got).min()) > near


def test_its_weights_are_stored_in_few_bits(made: dict[str, Path], folder_of: FolderOf) -> None:
    sizes = {kind: (made[kind] / "model.safetensors").stat().st_size for kind in FORMATS}
    assert sizes["int4"] < sizes["int8"] < 0.8 * (folder_of("llava") / "model.safetensors").stat().st_size


def test_quantizing_it_again_or_merging_an_adapter_into_it_is_refused(made: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"already quantized by its own config \(compressed-tensors\), but nf4"):
        _ = HF(path=str(made["int8"]), quantize="nf4").digest
    with pytest.raises(ModelError, match=r"model.merge: .* is quantized \(compressed-tensors\)"):
        _ = HF(path=str(made["int8"]), adapter=str(tmp_path), merge=True).digest


def test_a_missing_library_is_reported_with_a_remedy(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.quantizers import quantizer_compressed_tensors

    monkeypatch.setattr(quantizer_compressed_tensors, "is_compressed_tensors_available", lambda: False)
    with pytest.raises(ModelError, match=r"this machine cannot run it: .*pip install compressed-tensors.*`quantize`"):
        _ = HF(path=str(made["int4"])).digest
