"""The GPU part of the bench, run dry: `torch.cuda` is faked, tensors are on the CPU, and checkpoints are small."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_cuda import FakeGPU, fake_gpu

from icl.errors import ICLError
from icl.models.hf.memory import weights_bytes
from icl.models.hf.model import HF
from lab.gpu import prepare, workload
from lab.gpu.check import Bench, Figure, NotHereError, all_checks
from lab.gpu.checks import (
    attention_kernels,
    batches,
    embedder,
    memory,
    out_of_memory,
    synchronizations,
)
from lab.gpu.random_checkpoint import (
    FULL,
    GIB,
    NARROW,
    TOY,
    checkpoint_bytes,
    layers_that_fit,
    shape_of,
    with_layers,
    write_checkpoint,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("models") / "small", TOY)


@pytest.fixture
def bench(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench on a GPU. What is loaded for the GPU is on the CPU."""
    load = workload.load_model
    monkeypatch.setattr(
        workload, "load_model", lambda bench, path, **settings: load(bench, path, **settings | {"device": "cpu"})
    )
    return Bench(tmp_path, "cuda", models={"full": str(small), "narrow": str(small)})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGPU]:
    with fake_gpu(monkeypatch, FakeGPU()) as made:
        yield made


def by_name(figures: Iterator[Figure]) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures}


def test_a_random_checkpoint_loads_like_any_other_and_has_the_planned_bytes(small: Path) -> None:
    hf = HF(str(small), device="cpu", dtype="bfloat16")
    prompts = workload.make_prompts(2)
    assert hf.open(prompts).logits.isfinite().all()
    assert hf.notes == ()
    assert hf.weights_bytes == pytest.approx(weights_bytes(shape_of(TOY)), rel=1e-4)  # buffers are in float32
    assert hf.token_ids(prompts[1]).count(hf.checkpoint.config.image_token_id) == 2 * TOY.tokens_per_image


def test_the_large_checkpoint_has_the_size_of_the_published_one() -> None:
    assert shape_of(FULL).parameters == 8_462_061_808  # Idefics3-8B-Llama3
    assert FULL.tokens_per_image == 169
    assert checkpoint_bytes(NARROW) < 4 * GIB


def test_layers_are_left_out_where_gpu_or_disk_are_too_small() -> None:
    assert layers_that_fit(FULL, 80 * GIB, 100 * GIB) == 32
    for gpu, disk in ((24 * GIB, 100 * GIB), (80 * GIB, 12 * GIB)):
        layers = layers_that_fit(FULL, gpu, disk)
        room = min(0.6 * gpu, disk / 1.2)
        assert 0 < layers < 32
        assert checkpoint_bytes(with_layers(FULL, layers)) <= room < checkpoint_bytes(with_layers(FULL, layers + 1))
    assert layers_that_fit(FULL, 2 * GIB, 100 * GIB) == 0


def test_preparing_says_how_many_layers_there_are(tmp_path: Path) -> None:
    bench, result = Bench(tmp_path / "b", "cpu"), tmp_path / "result.json"
    bench.folder.mkdir()
    one, two = (checkpoint_bytes(with_layers(TOY, n)) for n in (1, 2))
    prepare.make_models(bench, (one + two) / 2 / 0.6, result, full=TOY, narrow=replace(TOY, layers=1))
    text = result.read_text()
    assert "full: 0.00 billion random weights, 1 layers, fewer than 2 because GPU or disk are too small" in text
    assert 'narrow: 0.00 billion random weights, 1 layers"' in text
    assert HF(str(tmp_path / "b" / "full")).checkpoint.config.text_config.num_hidden_layers == 1
    with pytest.raises(ICLError, match="not even one layer fits"):
        prepare.make_models(bench, 10.0, result)
    with pytest.raises(NotHereError):
        Bench(tmp_path, "cuda").model("full")
    assert Bench(tmp_path, "cpu").model("full") == "tiny"


def test_weights_cache_and_peak_of_a_prefill_are_those_of_the_plan(bench: Bench, gpu: FakeGPU) -> None:
    figures = by_name(memory.run(bench))
    assert len(figures) == 1 + 2 * len(memory.REQUESTS)
    assert figures.pop("weights").passes is not None  # the fake GPU does not see mapped files and counts pixels
    assert all(figure.passes for figure in figures.values()), figures


def test_a_plan_that_is_wrong_is_red(bench: Bench, gpu: FakeGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    from icl.models.hf import memory as estimates

    prefill = estimates.prefill_bytes
    monkeypatch.setattr(estimates, "prefill_bytes", lambda *args, **more: 1.3 * prefill(*args, **more))
    monkeypatch.setattr(estimates, "kv_bytes_per_token", lambda shape, size: 4 * shape.layers * shape.head_dim)
    failed = {name for name, figure in by_name(memory.run(bench)).items() if figure.passes is False}
    assert "16 x 128 tokens: KV cache" in failed
    assert "16 x 128 tokens: peak" in failed


def test_a_run_that_is_out_of_memory_gives_the_same_answers_and_the_memory_back(
    bench: Bench, gpu: FakeGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out_of_memory, "ROWS", 8)
    figures = by_name(out_of_memory.run(bench))
    assert gpu.failures > 0
    assert gpu.limit == gpu.total
    assert figures["answers as without the limit"].passes
    assert figures["memory that was not given back"].passes
    assert figures["allocations that failed"].measured.startswith(f"{gpu.failures}, ")


def test_waits_are_counted_for_each_step(bench: Bench, gpu: FakeGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synchronizations, "PROMPTS", 1)
    monkeypatch.setattr(synchronizations, "LONG", 10)
    figures = by_name(synchronizations.run(bench))
    assert list(figures) == ["1 arms", "4 arms"]
    assert all(float(figure.measured.split()[0]) >= 1 for figure in figures.values())

    def decode(model: Any, prompts: Any, arms: Any, length: int) -> None:
        for _ in range(2 * length):
            torch.ones(1).item()

    monkeypatch.setattr(workload, "decode", decode)
    assert [(f.measured, f.passes) for f in synchronizations.run(bench)] == [("2.00 a step", False)] * 2
    assert not gpu.warns


def test_batches_and_kernels_agree(bench: Bench, gpu: FakeGPU) -> None:
    quick = replace(bench, is_quick=True)
    assert by_name(batches.run(quick))["4 prompts of different lengths, 8 steps"].passes is not None
    figures = by_name(attention_kernels.run(quick))
    assert figures["flash_attention_2"].measured == "not here: flash-attn is not installed"
    gpu.capability = (7, 5)
    monkeypatched = pytest.MonkeyPatch()
    with monkeypatched.context() as patch:
        patch.setattr(attention_kernels, "find_spec", lambda name: object())
        assert attention_kernels.flash_problem("cuda") == "the GPU has capability (7, 5)"
        gpu.capability = (8, 0)
        assert attention_kernels.flash_problem("cuda") == ""


def test_an_embedder_beside_the_model_finds_the_same_neighbors(
    bench: Bench, gpu: FakeGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder, "QUERIES", 10)
    monkeypatch.setattr(embedder, "POOL", 30)
    load: Callable[[str], Any] = embedder.load_encoder
    monkeypatch.setattr(embedder, "load_encoder", lambda device: load("cpu"))
    figures = by_name(embedder.run(bench))
    assert figures["batches halved beside it"].passes
    assert figures["queries with other 4 neighbors than on the CPU"].measured == "0 of 10"


def test_logits_that_differ_are_no_agreement() -> None:
    first = torch.tensor([[[0.0, 1.0], [0.0, 0.01], [2.0, 0.0]]])
    second = torch.tensor([[[0.0, 1.0], [0.02, 0.01], [0.0, 2.0]]])
    both = workload.agreement(first, second)
    assert (both.steps, both.decided, both.equal, both.largest_difference) == (3, 2, 1, 2.0)
    assert not both.holds(0.5)
    assert workload.agreement(first, first).holds(0.5)
    assert not workload.agreement(first, first).holds(0.7)


def test_every_check_that_runs_on_a_gpu_is_in_the_registry() -> None:
    modules = {check.module for check in all_checks()}
    assert {
        m.__name__ for m in (attention_kernels, batches, embedder, memory, out_of_memory, synchronizations)
    } <= modules
