"""Batches and caches are as large as the free memory allows, and answers do not depend on it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

from decoding.arms.arm import parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import Counters, DecodingRequest
from icl.models.hf import device_memory as device_memory_module
from icl.models.hf.device_memory import DeviceMemory, device_memory
from icl.models.hf.memory_budgets import DEFAULT_BUDGETS, MAX_PREFILL_TOKENS, measured_budgets
from icl.models.hf.memory_estimate import GIB, decode_copies, kv_bytes_per_token, prefill_bytes
from icl.models.hf.model import HF
from icl.models.hf.tower_memory import tower_sizes
from tests.icl.models.hf.test_memory_estimate import shape

FolderOf = Callable[[str], Path]
MIB = 2**20


def free_memory(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr(device_memory_module, "host_memory", lambda: (free, free))


def test_a_7b_on_a_gpu_has_more_than_the_constants() -> None:
    for card, rows, images in ((24, 20, 100), (48, 90, 400), (80, 180, 900)):
        free = (card - 16) * GIB
        budgets = measured_budgets(shape("7B"), [DeviceMemory("cuda", free, card * GIB)], 2)
        assert budgets.prefill_tokens == MAX_PREFILL_TOKENS
        assert budgets.row_tokens // 3232 >= rows > DEFAULT_BUDGETS.row_tokens // 3232
        assert budgets.feature_bytes // (1000 * 3584 * 2) >= images > 74


def test_features_one_forward_pass_and_rows_take_the_usable_memory() -> None:
    budgets = measured_budgets(shape("7B"), [DeviceMemory("cuda", 8 * GIB, 24 * GIB)], 2)
    usable = 8 * GIB - 0.05 * 24 * GIB
    token = kv_bytes_per_token(shape("7B"))
    rows = budgets.row_tokens * token * decode_copies(shape("7B"))
    passing = max(prefill_bytes(shape("7B"), 1, budgets.prefill_tokens), usable / 8)
    assert budgets.feature_bytes + passing + rows == pytest.approx(usable, rel=1e-4)
    assert budgets.option_tokens * token + budgets.option_scores * 10 == pytest.approx(passing, rel=1e-4)


def test_little_memory_shortens_the_prefill_too() -> None:
    memory = DeviceMemory("cuda", 2 * GIB, 24 * GIB)
    budgets = measured_budgets(shape("7B"), [memory], 2)
    assert prefill_bytes(shape("7B"), 1, budgets.prefill_tokens) <= 0.2 * GIB
    assert 256 < budgets.prefill_tokens < MAX_PREFILL_TOKENS
    eager = measured_budgets(shape("7B"), [memory], 2, attention="eager")
    assert eager.prefill_tokens < budgets.prefill_tokens
    none = measured_budgets(shape("7B"), [DeviceMemory("cuda", 0, 24 * GIB)], 2)
    assert (none.prefill_tokens, none.row_tokens) == (1, 1)


def test_the_device_with_the_least_memory_for_its_layers_decides() -> None:
    whole = measured_budgets(shape("7B"), [DeviceMemory("cuda", 8 * GIB, 24 * GIB)], 2)
    halves = [DeviceMemory("cuda", 8 * GIB, 24 * GIB, 0.5)] * 2
    assert measured_budgets(shape("7B"), halves, 2).row_tokens == pytest.approx(2 * whole.row_tokens, abs=2)
    uneven = [DeviceMemory("cuda", 8 * GIB, 24 * GIB, 0.25), DeviceMemory("cuda", 8 * GIB, 24 * GIB, 0.75)]
    assert measured_budgets(shape("7B"), uneven, 2).row_tokens == pytest.approx(whole.row_tokens / 0.75, abs=2)


def test_a_cpu_has_the_constants_unless_its_free_memory_is_less() -> None:
    large = measured_budgets(shape("7B"), [DeviceMemory("cpu", 500 * GIB, 600 * GIB)], 4)
    assert replace(large, tower_bytes=DEFAULT_BUDGETS.tower_bytes) == DEFAULT_BUDGETS
    small = measured_budgets(shape("7B"), [DeviceMemory("cpu", 4 * GIB, 16 * GIB)], 4)
    assert 0 < small.row_tokens < DEFAULT_BUDGETS.row_tokens
    assert small.row_overhead > 0


def test_the_memory_of_a_device_is_what_its_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a MIG slice, `mem_get_info` gives the memory of the slice."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (9 * GIB, 10 * GIB))
    assert device_memory(torch.device("cuda:1")) == DeviceMemory("cuda", 9 * GIB, 10 * GIB)


def requests_of() -> list[DecodingRequest]:
    prompts = [tiny_models.prompt([i, i + 1, 20 + i], "what?" * (i % 3 + 1), query=str(i)) for i in range(6)]
    options = ("red", "a long blue answer", "green")
    arms = [parse_arm(node) for node in ("greedy", "vcd", {"name": "greedy", "sampling": {"temperature": 1.0}})]
    return [DecodingRequest(prompt, arm, max_new_tokens=5) for prompt in prompts for arm in arms] + [
        DecodingRequest(prompt, arms[0], options, "options") for prompt in prompts
    ]


def answers(hf: HF) -> tuple[list[Any], Counters]:
    counters = Counters()
    return run_requests(hf, requests_of(), counters), counters


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_answers_do_not_depend_on_the_free_memory(
    name: str, folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(folder_of(name))
    usual, usual_work = answers(HF(path=path))
    few = HF(path=path, trust_remote_code=True)  # another object, so that it is measured again
    free_memory(monkeypatch, MIB)
    few.load()
    assert few.engine.budgets.row_tokens < DEFAULT_BUDGETS.row_tokens
    monkeypatch.undo()
    got, work = answers(few)
    assert work.batches > usual_work.batches
    assert [(answer.tokens, answer.text) for answer in got] == [(answer.tokens, answer.text) for answer in usual]


def test_numbers_that_the_user_sets_are_used_as_they_are(folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch) -> None:
    free_memory(monkeypatch, 100 * MIB)
    hf = HF(path=str(folder_of("llava")), token_budget=500, image_cache_mb=3)
    budgets = hf.engine.budgets
    assert (budgets.prefill_tokens, budgets.row_tokens, budgets.feature_bytes) == (500, 2000, 3 * MIB)
    assert hf.engine.prompt_encoder.encoder.cache.limit == 3 * MIB
    assert (hf.max_batch_tokens, hf.row_overhead) == (2000, 0)


def test_a_checkpoint_that_cannot_fit_is_refused_before_its_weights_are_read(
    folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    from icl.errors import ModelError
    from icl.models.hf.checkpoint import Checkpoint

    free_memory(monkeypatch, 1000.0)
    monkeypatch.setattr(Checkpoint, "weights", lambda *args, **kwargs: pytest.fail("the weights were read"))
    with pytest.raises(ModelError, match=r"the weights need .* MiB \(float32\), and the main memory has 0.0 MiB free"):
        HF(path=str(folder_of("llava"))).load()


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_the_vision_tower_reads_as_many_images_as_fit(name: str, folder_of: FolderOf) -> None:
    hf = HF(path=str(folder_of(name)))
    encoder = hf.engine.prompt_encoder.encoder
    prompt = tiny_models.prompt([1, 2, 3, 4, 5, 6], size=(56, 56))
    want, passes = hf.open([prompt]).logits, []
    peak, tower = encoder._peak_bytes, encoder._tower
    encoder._tower = lambda group: passes.append((len(group), peak(group))) or tower(group)
    for allowed, sizes in ((1, [1] * 6), (2, [2] * 3), (4, [4, 2])):
        encoder.cache.clear()
        encoder.max_bytes = allowed * passes[0][1] if passes else 0
        passes.clear()
        got = hf.open([prompt]).logits
        assert [count for count, _ in passes] == sizes
        assert [size / passes[0][1] for _, size in passes] == pytest.approx([count / sizes[0] for count in sizes])
        passes[:] = [(1, passes[0][1] / sizes[0])]
        assert float((got - want).abs().max()) < 2e-5


def test_large_images_are_encoded_in_smaller_batches() -> None:
    from published_configs import qwen

    tower = tower_sizes(qwen("7B"))
    assert tower is not None
    assert (tower.hidden, tower.inner, tower.patch_values) == (1280, 3420, 3 * 14 * 14 * 2)
    budgets = measured_budgets(shape("7B"), [DeviceMemory("cuda", 8 * GIB, 24 * GIB)], 2)
    assert budgets.tower_bytes == pytest.approx(1.15 * GIB, rel=0.01)
    assert tower.peak_bytes(5000, 1) < budgets.tower_bytes < tower.peak_bytes(5000, 16)
