"""Quantization: which modules, how small and how accurate, and what is refused before loading."""

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

from icl.errors import ConfigError, ModelError
from icl.models.hf import prequantized, quantization
from icl.models.hf.model import HF
from icl.registry import build

pytest.importorskip("bitsandbytes")

FolderOf = Callable[[str], Path]
SETTINGS: list[dict[str, Any]] = [
    {"quantize": "nf4"},
    {"quantize": "nf4", "double_quant": True, "compute_dtype": "bfloat16"},
    {"quantize": "fp4"},
    {"quantize": "int8"},
]
PATHS = ("tiny", "llava")


def name_of(value: Any) -> str:
    return "-".join(map(str, value.values())) if isinstance(value, dict) else str(value)


def kinds(hf: HF) -> dict[str, str]:
    """name -> class of every linear layer."""
    named = hf.engine.runner.model.named_modules()
    return {name: type(module).__name__ for name, module in named if "Linear" in type(module).__name__}


def logits(hf: HF) -> torch.Tensor:
    return hf.open(tiny_models.prompts()).logits


def agreement(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.cosine_similarity(one, other).min())


@pytest.mark.parametrize(("setting", "path"), tiny_models.pairs(SETTINGS, PATHS), ids=name_of)
def test_the_language_model_is_quantized_and_near_to_full_precision(
    path: str, setting: dict[str, Any], folder_of: FolderOf
) -> None:
    full = HF(path=path if path == "tiny" else str(folder_of(path)))
    few = replace(full, **setting)
    want, got = logits(full), logits(few)
    assert few.notes == ()
    assert float((want - got).abs().max()) > 0
    assert agreement(want, got) > (0.999 if setting["quantize"] == "int8" else 0.95)
    mine = "Linear8bitLt" if setting["quantize"] == "int8" else "Linear4bit"
    for name, kind in kinds(few).items():
        assert kind == (mine if "layers" in name and "vision" not in name else "Linear"), name
    sizes = [hf.engine.runner.model.get_memory_footprint() for hf in (full, few)]
    assert sizes[1] < 0.8 * sizes[0]


@pytest.mark.parametrize(("setting", "path"), tiny_models.pairs(SETTINGS[:3], PATHS), ids=name_of)
def test_no_weight_is_further_off_than_half_a_gap_between_codes(
    path: str, setting: dict[str, Any], folder_of: FolderOf
) -> None:
    """By hand .152 (nf4) and .167 (fp4) of the block's largest; bfloat16 and rounded scales add a hundredth."""
    full = HF(path=path if path == "tiny" else str(folder_of(path)))
    few = replace(full, **setting)
    full.load()
    few.load()
    weights = dict(full.engine.runner.model.named_parameters())
    assert "Linear4bit" in kinds(few).values()
    for name, layer in few.engine.runner.model.named_modules():
        if type(layer).__name__ == "Linear4bit":
            want = weights[f"{name}.weight"].detach()
            assert layer.bias is None, name
            got = layer(torch.eye(want.shape[1], device=want.device)).T
            off, largest = ((w.abs().reshape(-1, 64).amax(1)) for w in (got - want, want))
            assert float((off / largest).max()) < 0.18, name


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_tower_and_head_are_quantized_on_request(quantize: str, folder_of: FolderOf) -> None:
    hf = HF(path=str(folder_of("llava")), quantize=quantize, quantize_vision=True, quantize_head=True)  # type: ignore[arg-type]
    assert "Linear" not in kinds(hf).values()
    assert logits(hf).isfinite().all()


@pytest.mark.parametrize("setting", [{"quantize": "nf4"}, {"quantize": "int8", "outlier_threshold": 0.0}])
def test_a_row_is_the_same_in_any_batch(setting: dict[str, Any]) -> None:
    hf = HF(**setting)
    together = logits(hf)
    alone = torch.cat([hf.open([prompt]).logits for prompt in tiny_models.prompts()])
    worst = (together - alone).abs().amax(1)
    # int8: an input between two codes may fall either way by float32's last bits, so a row here or there may differ
    assert float(worst.max() if setting["quantize"] == "nf4" else worst.median()) < 1e-4


def test_four_bits_are_the_same_whatever_the_cpu_can_repack() -> None:
    hf = HF(quantize="nf4")
    hf.load()
    layers = [m for m in hf.engine.runner.model.modules() if type(m).__name__ == "Linear4bit"]
    first, again = logits(hf), logits(hf)
    assert layers
    assert not any(getattr(layer.weight.quant_state, "packing_format_for_cpu", False) for layer in layers)
    assert torch.equal(first, again)


def test_the_digest_includes_used_settings_of_quantization_only() -> None:
    made = [HF(), *(HF(**setting) for setting in SETTINGS), HF(quantize="nf4", quantize_vision=True)]
    made += [HF(quantize="int8", outlier_threshold=0.0), HF(quantize="nf4", double_quant=True)]
    assert len({hf.digest for hf in made}) == len(made)
    assert HF(double_quant=True, outlier_threshold=1.0).digest == HF().digest
    assert HF(quantize="int8", double_quant=True).digest == HF(quantize="int8").digest


@pytest.mark.parametrize("in_a_cycle", [False, True])
def test_an_unloaded_model_frees_its_weights_and_collects_garbage_only_if_needed(
    in_a_cycle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf = HF(quantize="nf4")
    hf.load()
    weights = weakref.ref(hf.engine.runner.model)
    gc.collect()  # cycles of loading are not the subject
    if in_a_cycle:
        cycle: list[Any] = [hf.engine.runner.model]
        cycle.append(cycle)
        del cycle
    collections: list[int] = []
    collect = gc.collect
    monkeypatch.setattr(gc, "collect", lambda *arguments: collections.append(collect(*arguments)))
    gc.disable()
    try:
        hf.unload()
    finally:
        gc.enable()
    assert weights() is None
    assert len(collections) == in_a_cycle


@pytest.fixture(scope="module")
def already(tmp_path_factory: pytest.TempPathFactory, folder_of: FolderOf) -> Path:
    """A checkpoint that was saved in 4 bits."""
    hf = HF(path=str(folder_of("llava")), quantize="nf4")
    folder = tmp_path_factory.mktemp("already")
    hf.load()
    hf.engine.runner.model.save_pretrained(folder)
    hf.checkpoint.processor.save_pretrained(folder)
    return folder


def test_a_checkpoint_that_is_quantized_loads_by_its_own_config(already: Path, folder_of: FolderOf) -> None:
    hf = HF(path=str(already))
    assert prequantized.method(hf.checkpoint) == "bitsandbytes"
    assert "Linear4bit" in kinds(hf).values()
    assert torch.allclose(logits(hf), logits(HF(path=str(folder_of("llava")), quantize="nf4")), atol=1e-4)


def test_quantizing_it_again_is_refused_when_the_plan_is_made(already: Path) -> None:
    with pytest.raises(
        ModelError,
        match=r"is already quantized by its own config \(bitsandbytes\), but int8 is "
        r"requested",
    ):
        _ = HF(path=str(already), quantize="int8").digest


def test_merging_an_adapter_into_it_is_refused(already: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model.merge: .* is quantized \(bitsandbytes\)"):
        _ = HF(path=str(already), adapter=str(tmp_path), merge=True).digest


def test_a_quantized_checkpoint_that_this_installation_cannot_run_is_reported_before_it_loads(
    tmp_path: Path, folder_of: FolderOf
) -> None:
    folder = Path(shutil.copytree(folder_of("llava"), tmp_path / "checkpoint"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "aqlm", "nbits_per_codebook": 16}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"is quantized \(aqlm\), but this machine cannot run it: .+`pip install aqlm"):
        _ = HF(path=str(folder)).digest


def test_a_missing_bitsandbytes_is_reported_when_the_plan_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: None if name == "bitsandbytes" else find_spec(name))
    with pytest.raises(ModelError, match="nf4 needs the package bitsandbytes, which is not installed"):
        _ = HF(quantize="nf4").digest


def test_an_unsupported_device_is_reported_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        quantization.device_placement, "resolve_device", lambda *_: ("meta", "meta")
    )  # weights that hold no numbers
    with pytest.raises(ModelError, match=r"model.quantize: nf4 does not work on meta here: .+ Use `quantize: none`"):
        _ = HF(quantize="nf4").digest


def test_a_head_that_is_the_embedding_table_is_not_quantized(tmp_path: Path, folder_of: FolderOf) -> None:
    folder = Path(shutil.copytree(folder_of("llava"), tmp_path / "checkpoint"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    with pytest.raises(ModelError, match=r"model.quantize_head: .* is tied to the input embeddings"):
        _ = HF(path=str(folder), quantize="nf4", quantize_head=True).digest


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"quantize": "nf3"}, "quantize"),
        ({"quantize": "nf4", "compute_dtype": "float8"}, "compute_dtype"),
        ({"quantize_vision": True}, "quantize_vision only applies if `quantize` is set"),
        ({"quantize": "int8", "outlier_threshold": -1}, "outlier_threshold"),
    ],
)
def test_settings_that_make_no_sense_are_config_errors(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("model", {"name": "hf", **node})


COUNTED = '''
from dataclasses import dataclass
from pathlib import Path
from icl.models.hf.model import HF

@dataclass(frozen=True)
class Counted(HF):
    """Says when it is loaded and let go."""

    log: str = ""

    def load(self):
        if "engine" not in vars(self):
            Path(self.log).open("a").write(f"load {self.quantize}\\n")
        super().load()

    def unload(self):
        Path(self.log).open("a").write(f"unload {self.quantize}\\n")
        super().unload()
'''


def test_as_an_axis_each_setting_is_loaded_once_and_unloaded_before_the_next(tmp_path: Path) -> None:
    from experiments.api import run

    (tmp_path / "counted.py").write_text(COUNTED)
    (tmp_path / "grid.yaml").write_text(
        f"name: bits\nmodel: {{name: counted.py:Counted, log: {tmp_path / 'log'}}}\nmax_new_tokens: 2\n"
        "task: {name: binding, ways: 2, queries: 2}\n"
        "grid:\n  model.quantize: [none, nf4]\n  shots: [0, 2]\n  decoding: [greedy, vcd]\n"
        "compare: {to: {model: {quantize: none}}, metric: lenient}\n"
    )
    done = run(tmp_path / "grid.yaml", {}, tmp_path / "runs", quiet=True)
    assert (tmp_path / "log").read_text().split("\n")[:-1] == ["load none", "unload none", "load nf4", "unload nf4"]
    frame = done.samples()
    assert len(frame) == 16
    assert frame["model"].nunique() == 2
