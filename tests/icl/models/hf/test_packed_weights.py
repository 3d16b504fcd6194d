"""GPTQ and AWQ checkpoints: equal to full precision, small in memory, and clear errors for unsupported files."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file

from decoding.arms.arm import parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest
from icl.errors import ModelError
from icl.models.hf import prequantized, quantization
from icl.models.hf.model import HF
from icl.models.hf.packed_weights import AT_ONCE, numbers, unpacked
from icl.models.hf.prequantized import PackedFormat

sys.path.insert(0, str(Path(__file__).parents[3] / "decoding" / "lockstep"))
import packed

CLOSE = 2e-5
"""Logits are of unit size, and the weights are the same numbers; before they were rounded they say .4 and more else."""

ARCHITECTURES = ("llava", "qwen2_5_vl", "idefics3", "internvl")
FORMATS = {
    "gptq": packed.FORMATS["gptq"],
    "gptq-act-order": packed.Format("gptq", symmetric=False, desc_act=True),
    "gptq-v2-one-group": packed.Format("gptq", symmetric=False, group=-1, second=True),
    "gptq-8-bits": packed.Format("gptq", bits=8, group=64),
    "gptq-2-bits": packed.Format("gptq", bits=2, symmetric=False),
    "awq": packed.FORMATS["awq"],
    "awq-one-group": packed.Format("awq", symmetric=False, group=128),
}
Made = Callable[..., tuple[HF, HF]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """(the packed checkpoint, its weights in full precision) of an architecture and a format."""
    sources: dict[str, Path] = {}
    cache: dict[tuple[str, str], tuple[HF, HF]] = {}

    def get(architecture: str, kind: str) -> tuple[HF, HF]:
        if architecture not in sources:
            size = tiny_models.Size(width=128, layers=2)
            sources[architecture] = tiny_models.save(architecture, tmp_path_factory.mktemp(architecture), size)
        if (architecture, kind) not in cache:
            small, full = packed.made(sources[architecture], tmp_path_factory.mktemp(kind), FORMATS[kind])
            cache[architecture, kind] = HF(path=str(small)), HF(path=str(full))
        return cache[architecture, kind]

    return get


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def make_requests() -> list[DecodingRequest]:
    arms = [parse_arm(arm) for arm in ("greedy", "vcd")]
    prompts = tiny_models.prompts()
    written = [DecodingRequest(prompt, arm, max_new_tokens=6) for prompt in prompts for arm in arms if prompt.images]
    return written + [DecodingRequest(prompt, arms[0], ("red", "a cat"), "options") for prompt in prompts]


@pytest.mark.parametrize(("architecture", "kind"), tiny_models.pairs(ARCHITECTURES, ("gptq", "awq")))
def test_it_equals_the_same_weights_in_full_precision(architecture: str, kind: str, made: Made) -> None:
    small, full = made(architecture, kind)
    assert prequantized.method(small.checkpoint) == kind
    got, want = (hf.open(tiny_models.prompts()).logits for hf in (small, full))
    assert gap(got, want) < CLOSE
    assert small.notes == full.notes == ()
    for one, other in zip(run_requests(small, make_requests()), run_requests(full, make_requests()), strict=True):
        assert one.tokens == other.tokens
        assert one.option_scores == pytest.approx(other.option_scores, abs=1e-4)


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_gives_the_very_weights(kind: str, made: Made) -> None:
    small, full = made("llava", kind)
    weights = dict(full.engine.runner.model.named_parameters())
    layers = {name: layer for name, layer in modules(small).items() if type(layer).__name__ == "PackedLinear"}
    assert len(layers) == 2 * 7
    for name, layer in layers.items():
        assert torch.equal(layer.weight, weights[f"{name}.weight"]), name
    left = {name.rpartition(".")[2] for name, layer in modules(small).items() if type(layer) is torch.nn.Linear}
    assert {"lm_head", "fc1"} <= left


def modules(hf: HF) -> dict[str, torch.nn.Module]:
    return dict(hf.engine.runner.model.named_modules())


@pytest.mark.parametrize("kind", ["gptq-act-order", "awq"])
def test_a_row_is_the_same_in_any_batch_and_with_images_from_the_cache(kind: str, made: Made) -> None:
    small, _ = made("qwen2_5_vl", kind)
    prompts = tiny_models.prompts()
    together = small.open(prompts).logits
    assert gap(together, torch.cat([small.open([prompt]).logits for prompt in prompts])) < CLOSE
    plain = replace(small, image_cache_mb=0)
    assert gap(together, plain.open(prompts).logits) < CLOSE
    for prompt in prompts:
        reader = small.engine.prompt_encoder
        own = type(reader)(reader.renderer, reader.pixels, reader.runner, None).read([prompt])
        assert gap(small.engine.runner.prefill(own).logits, small.open([prompt]).logits) < CLOSE


def test_float32_has_the_tolerance_of_exact_models(made: Made) -> None:
    small, _ = made("llava", "awq")
    assert quantization.is_exact(small.engine.runner.model)
    assert not quantization.is_exact(replace(small, dtype="bfloat16").engine.runner.model)


def test_a_bias_that_the_files_have_and_the_architecture_has_not_is_added(made: Made, tmp_path: Path) -> None:
    """As writers leave it, whose packed layers always have one."""
    small, _ = made("llava", "gptq")
    folder, biases = written(small, tmp_path), {}
    for key, scales in constant_weights(folder).items():
        if key.endswith("down_proj.scales"):
            biases[key.replace("scales", "bias")] = torch.full((scales.shape[1],), 0.25).half()
    save_file(constant_weights(folder) | biases, folder / "model.safetensors", {"format": "pt"})
    biased = HF(path=str(folder))
    for name, layer in modules(biased).items():
        if name.endswith("down_proj"):
            zeros = torch.zeros(1, layer.in_features)
            assert layer(zeros).unique().tolist() == [0.25]
    assert gap(biased.open(tiny_models.prompts()).logits, small.open(tiny_models.prompts()).logits) > 0.01


@pytest.mark.parametrize(("kind", "bits"), [("gptq", 4), ("awq", 4), ("gptq-8-bits", 8), ("gptq-2-bits", 2)])
def test_its_weights_stay_packed_in_memory(kind: str, bits: int, made: Made) -> None:
    small, full = made("llava", kind)
    layers = [layer for layer in modules(small).values() if type(layer).__name__ == "PackedLinear"]
    numbers = sum(layer.in_features * layer.out_features for layer in layers)
    size = sum(part.nbytes for layer in layers for part in layer.parameters())
    group = FORMATS[kind].group
    assert size == numbers * bits // 8 + numbers // group * (2 + bits / 8)
    assert full.weights_bytes - small.weights_bytes == 4 * numbers - size
    small.open(tiny_models.prompts())
    assert full.weights_bytes - small.weights_bytes == 4 * numbers - size


def test_in_sixteen_bits_each_weight_is_rounded_once(made: Made) -> None:
    """As the weights in full precision are, where they are loaded in 16 bits."""
    for architecture, kind in (("llava", "gptq-act-order"), ("qwen2_5_vl", "awq")):
        small, full = (replace(hf, dtype="bfloat16") for hf in made(architecture, kind))
        weights = dict(full.engine.runner.model.named_parameters())
        for name, layer in modules(small).items():
            if type(layer).__name__ == "PackedLinear":
                assert torch.equal(layer.weight, weights[f"{name}.weight"]), name
        got, want = (hf.open(tiny_models.prompts()).logits.float() for hf in (small, full))
        assert float(torch.cosine_similarity(got, want).min()) > 0.999


def test_the_files_decide_what_is_packed_whatever_the_names(made: Made, tmp_path: Path) -> None:
    """Files and configs name layers as they were called when they were written, or as they are called today."""
    small, full = made("qwen2_5_vl", "awq")
    published = constant_weights(Path(small.path))
    assert {key.split(".")[0] for key in published} == {"model", "visual", "lm_head"}
    assert not any("language_model" in key for key in published)
    today = {
        re.sub(r"^visual\.", "model.visual.", re.sub(r"^model\.", "model.language_model.", key)): value
        for key, value in published.items()
    }
    want = full.open(tiny_models.prompts()).logits
    for number, (names, left_out) in enumerate(((today, ["visual"]), (today, None), (published, None))):
        folder = written(small, tmp_path / str(number), modules_to_not_convert=left_out)
        save_file(names, folder / "model.safetensors", {"format": "pt"})
        assert gap(HF(path=str(folder)).open(tiny_models.prompts()).logits, want) < CLOSE


def test_layers_may_differ_in_bits_if_the_config_says_so(made: Made, tmp_path: Path) -> None:
    four, eight = (made("llava", kind) for kind in ("gptq", "gptq-8-bits"))
    folder = written(four[0], tmp_path, dynamic={"+:.*mlp.*": {"bits": 8, "group_size": 64}})
    chosen = [Path(hf.path) for hf in (four[0], eight[0])]
    save_file(mixed(*map(constant_weights, chosen)), folder / "model.safetensors", {"format": "pt"})
    (tmp_path / "full").mkdir()
    full = Path(shutil.copytree(four[1].path, tmp_path / "full" / "checkpoint"))
    save_file(
        mixed(*(constant_weights(Path(hf.path)) for hf in (four[1], eight[1]))),
        full / "model.safetensors",
        {"format": "pt"},
    )
    got, want = (HF(path=str(path)).open(tiny_models.prompts()).logits for path in (folder, full))
    assert gap(got, want) < CLOSE
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]["dynamic"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"mlp\.\w+ cannot be read: its qweight of 64 x 128 is none of 4 bits for 256"):
        HF(path=str(folder)).load()


def mixed(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in one.items() if ".mlp." not in key or "vision" in key} | {
        key: value for key, value in other.items() if ".mlp." in key and "vision" not in key
    }


def test_an_adapter_goes_beside_packed_weights(made: Made, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    small, full = made("llava", "gptq")
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules=r".*language_model.*(q_proj|v_proj|down_proj)")
    tuned = peft.get_peft_model(full.checkpoint.weights(dtype=torch.float32), lora)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2, generator=draw)
    tuned.save_pretrained(tmp_path / "lora")
    packed, want = (replace(hf, adapter=str(tmp_path / "lora")) for hf in (small, full))
    got = packed.open(tiny_models.prompts()).logits
    assert gap(got, want.open(tiny_models.prompts()).logits) < CLOSE
    assert gap(got, small.open(tiny_models.prompts()).logits) > 0.1
    packed_layers = sum(type(layer).__name__ == "PackedLinear" for layer in modules(packed).values())
    assert packed_layers == 2 * 7


def test_loading_uses_no_random_numbers(made: Made) -> None:
    small, _ = made("llava", "awq")
    torch.manual_seed(1)
    first = torch.rand(1)
    torch.manual_seed(1)
    once = replace(small)
    once.load()
    assert torch.equal(first, torch.rand(1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["gptq-act-order", "awq"])
def test_a_device_and_a_cpu_give_equal_logits(kind: str, made: Made) -> None:
    small, _ = made("llava", kind)
    there = replace(small, device="cuda", dtype="float32")
    got = there.open(tiny_models.prompts()).logits.cpu()
    assert gap(got, small.open(tiny_models.prompts()).logits) < 1e-3
    for name, layer in modules(small).items():
        if type(layer).__name__ == "PackedLinear":
            assert torch.equal(layer.weight, modules(there)[name].weight.cpu()), name


def test_layers_that_accelerate_places_stay_packed(made: Made) -> None:
    small, _ = made("llava", "gptq")
    placed = replace(small, device_map="auto")
    assert gap(placed.open(tiny_models.prompts()).logits.cpu(), small.open(tiny_models.prompts()).logits) < 1e-3
    assert placed.weights_bytes == small.weights_bytes


def test_quantizing_it_again_or_merging_an_adapter_into_it_is_refused(made: Made, tmp_path: Path) -> None:
    for kind in ("gptq", "awq"):
        small, _ = made("llava", kind)
        with pytest.raises(ModelError, match=rf"already quantized by its own config \({kind}\), but nf4"):
            _ = replace(small, quantize="nf4").digest
        with pytest.raises(ModelError, match=rf"model.merge: .* is quantized \({kind}\)"):
            _ = replace(small, adapter=str(tmp_path), merge=True).digest


def written(hf: HF, tmp_path: Path, **settings: object) -> Path:
    """A copy with other settings of its quantization."""
    folder = Path(shutil.copytree(hf.path, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= settings
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def constant_weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("gptq", {"bits": 3}, "it has 3 bits a weight, and gptq is read in 2 or 4 or 8"),
        ("awq", {"bits": 8}, "it has 8 bits a weight, and awq is read in 4"),
        ("gptq", {"checkpoint_format": "marlin"}, "its format is marlin, and gptq is read in gptq or gptq_v2"),
        ("awq", {"version": "GEMV"}, "its format is gemv, and awq is read in gemm"),
        ("awq", {"zero_point": False}, r"it has no zero points \(zero_point: false\)"),
    ],
)
def test_unsupported_formats_are_reported_when_the_plan_is_made(
    kind: str, settings: dict[str, object], message: str, made: Made, tmp_path: Path
) -> None:
    folder = written(made("llava", kind)[0], tmp_path, **settings)
    with pytest.raises(ModelError, match=rf"is quantized \({kind}\), but this backend cannot read it: {message}.*vllm"):
        _ = HF(path=str(folder)).digest


def damaged(weights: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    layer = next(key.removesuffix("qweight") for key in weights if key.endswith("qweight"))
    part, _, what = how.partition(" ")
    key = layer + part
    if what == "missing":
        del weights[key]
    elif what == "short":
        weights[key] = weights[key][:-1].contiguous()
    elif what == "infinite":
        weights[key][0, 0] = float("inf")
    elif what == "beyond":
        weights[key][-1] = 99
    elif what == "embedded":
        table = next(key for key in weights if key.endswith("embed_tokens.weight")).removesuffix("weight")
        weights |= {table + each: weights.pop(layer + each) for each in ("qweight", "qzeros", "scales")}
    elif what == "elsewhere":
        weights |= {
            layer.replace("_proj", "_other") + each: weights.pop(layer + each) for each in ("qweight", "qzeros")
        }
    return weights


@pytest.mark.parametrize(
    ("kind", "how", "message"),
    [
        ("gptq", "scales missing", "q?.*_proj cannot be read: its scales are missing"),
        ("awq", "qzeros missing", "cannot be read: its qzeros are missing"),
        ("gptq", "qweight missing", "cannot be read: its qweight are missing"),
        ("awq", "qweight short", r"its qweight have the shape \d+ x \d+, and \d+ x \d+ is that of its layer"),
        ("gptq", "qweight short", "is none of 4 bits for"),
        ("gptq", "scales short", "its qzeros have the shape"),
        ("gptq", "g_idx short", "its g_idx have the shape"),
        ("awq", "scales infinite", "cannot be read: some of its scales are not finite"),
        ("gptq", "g_idx beyond", "its g_idx names groups beyond its"),
        (
            "awq",
            "qweight elsewhere",
            "_other is packed, and LlavaForConditionalGeneration has no linear layer of that",
        ),
    ],
)
def test_a_damaged_file_is_reported_with_the_layer(
    kind: str, how: str, message: str, made: Made, tmp_path: Path
) -> None:
    folder = written(made("llava", kind)[0], tmp_path)
    save_file(damaged(constant_weights(folder), how), folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"is quantized \({kind}\), and .*{message}.*fetch them again") as refused:
        HF(path=str(folder)).load()
    assert "\n" not in str(refused.value)


def test_a_config_that_says_packed_over_files_that_are_not_is_refused(made: Made, tmp_path: Path) -> None:
    small, full = made("llava", "gptq")
    folder = written(small, tmp_path)
    shutil.copy(Path(full.path) / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"none of its .*safetensors contains a packed weight"):
        HF(path=str(folder)).load()


def test_experts_that_the_architecture_keeps_in_one_tensor_are_refused(made: Made, tmp_path: Path) -> None:
    small, _ = made("qwen3_vl_moe", "gptq")
    folder = written(small, tmp_path)
    weights = constant_weights(folder)
    layer = next(key for key in weights if key.endswith("q_proj.qweight")).removesuffix("self_attn.q_proj.qweight")
    parts = {part: weights[f"{layer}self_attn.q_proj.{part}"] for part in ("qweight", "qzeros", "scales")}
    weights |= {f"{layer}mlp.experts.0.gate_proj.{part}": value.clone() for part, value in parts.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"experts.0.gate_proj is packed, and .* keeps it with others in one tensor"):
        HF(path=str(folder)).load()


WORDS = torch.tensor([[0x76543210, -1]], dtype=torch.int32)


def test_the_lowest_bits_of_a_word_are_its_first_number() -> None:
    ones = [15] * 8
    assert numbers(WORDS, 4, 1).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, *ones]]
    assert numbers(WORDS, 4, 0).T.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7], ones]
    assert numbers(WORDS, 8, 1).tolist() == [[0x10, 0x32, 0x54, 0x76, 255, 255, 255, 255]]
    assert numbers(WORDS, 2, 1)[0, :6].tolist() == [0, 0, 1, 0, 2, 0]


def test_columns_of_awq_lie_in_its_own_order() -> None:
    unpacked_numbers = numbers(WORDS, 4, 1, interleaved=True)[0, :8].tolist()
    assert [unpacked_numbers[column] for column in (0, 2, 4, 6, 1, 3, 5, 7)] == list(range(8))


@pytest.mark.parametrize("lag", [0, 1])
def test_a_stored_zero_of_fifteen_is_sixteen_in_the_first_format(lag: int) -> None:
    how = PackedFormat("gptq", 4, 1, lag)
    words, zeros = torch.zeros(1, 8, dtype=torch.int32), torch.full((1, 1), -1, dtype=torch.int32)
    assert unpacked(how, words, zeros, torch.ones(1, 8).half()).unique().tolist() == [-15.0 - lag]


@pytest.mark.parametrize("groups", [1, 3, 24])
@pytest.mark.parametrize(
    "how",
    [
        packed.Format("gptq"),
        packed.Format("gptq", bits=8, second=True),
        packed.Format("gptq", bits=2, desc_act=True),
        packed.FORMATS["awq"],
    ],
)
def test_a_layer_of_several_blocks_has_the_weights_that_were_packed(how: packed.Format, groups: int) -> None:
    inputs, outputs = 3 * AT_ONCE, 32
    draw = torch.Generator().manual_seed(groups)
    group = torch.arange(inputs) * groups // inputs
    if how.desc_act:
        group = group[torch.randperm(inputs, generator=draw)]
    q = torch.randint(0, 2**how.bits, (inputs, outputs), generator=draw)
    zeros = torch.randint(1, 2**how.bits, (groups, outputs), generator=draw)
    scales = torch.rand(groups, outputs, generator=draw).half()
    parts = packed.gptq(q, zeros, group, how) if how.method == "gptq" else packed.awq(q, zeros)
    lag = int(how.method == "gptq" and not how.second)
    packed_format = PackedFormat(how.method, how.bits, groups, lag)
    want = (q - zeros[group]) * scales.float()[group]
    g_idx = parts.get("g_idx")
    for index in [g_idx] if how.desc_act else [g_idx, None]:
        got = unpacked(packed_format, parts["qweight"], parts["qzeros"], scales, index)
        assert torch.equal(got, want)
        half = unpacked(packed_format, parts["qweight"], parts["qzeros"], scales, index, dtype=torch.bfloat16)
        assert torch.equal(half, want.bfloat16())
