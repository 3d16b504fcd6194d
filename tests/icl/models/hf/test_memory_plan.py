"""A plan says what fits on a device. Batches are as large as memory allows, and answers do not depend on it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from published_configs import qwen

from decoding.arms.arm import parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import Counters, DecodingRequest
from icl.models.hf import memory as memory_module
from icl.models.hf.memory import (
    DEFAULT_BUDGETS,
    GIB,
    MAX_PREFILL_TOKENS,
    DeviceMemory,
    MemoryNeeds,
    RequestSize,
    WeightPrecision,
    decode_copies,
    device_memory,
    kv_bytes_per_token,
    measured_budgets,
    plan_memory,
    prefill_bytes,
    row_bytes,
    shortage,
    tower_sizes,
)
from icl.models.hf.model import HF
from tests.icl.models.hf.test_memory import shape

FolderOf = Callable[[str], Path]
MIB = 2**20
NF4 = WeightPrecision(quantize="nf4")
SIZES = tower_sizes(qwen("7B"))
assert SIZES is not None
TOWER = replace(SIZES, patches=1600, tokens=400, token_values=3584)


def free_memory(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr(memory_module, "host_memory", lambda: (free, free))


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
    encoder._tower = lambda group, **edits: passes.append((len(group), peak(group))) or tower(group, **edits)
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
    tower = tower_sizes(qwen("7B"))
    assert tower is not None
    assert (tower.hidden, tower.inner, tower.patch_values) == (1280, 3420, 3 * 14 * 14 * 2)
    budgets = measured_budgets(shape("7B"), [DeviceMemory("cuda", 8 * GIB, 24 * GIB)], 2)
    assert budgets.tower_bytes == pytest.approx(1.15 * GIB, rel=0.01)
    large = replace(tower, patches=5000)
    assert large.peak_bytes(1) < budgets.tower_bytes < large.peak_bytes(16)


def test_a_plan_prints_weights_features_prefill_rows_and_images_that_are_encoded_again() -> None:
    request = RequestSize(3200, 32, 2, image_tokens=400, images=2000, image_uses=9000)
    plan = plan_memory(MemoryNeeds(shape("7B"), tower=TOWER), request, 24 * GIB)
    assert plan.problem == ""
    assert plan.describe() == (
        f"weights 15.4 GiB (bfloat16), features {plan.features / GIB:.1f}, vision tower {plan.tower / GIB:.1f}, "
        f"prefill 0.9, 0.18 a row while rows change; 6.8 of 24.0 GiB free after loading: {plan.rows} rows together; "
        f"about {plan.encodings_repeated:,.0f} images encoded again"
    )
    assert "vision tower not estimated" in plan_memory(MemoryNeeds(shape("7B")), request, 24 * GIB).describe()
    assert "vision" not in plan_memory(MemoryNeeds(shape("7B")), RequestSize(3200, 32, 2), 24 * GIB).describe()
    cached = plan.features / (2000 * 400 * 3584 * 2)
    assert plan.encodings_repeated == pytest.approx(7000 * (1 - cached))
    few = RequestSize(3200, 32, 2, image_tokens=400, images=20, image_uses=900)
    assert plan_memory(MemoryNeeds(shape("7B")), few, 24 * GIB).encodings_repeated == 0


def test_rows_together_fit_beside_weights_features_and_a_prefill() -> None:
    for name, precision, device in (("7B", WeightPrecision(), 24), ("7B", NF4, 24), ("32B", NF4, 48), ("72B", NF4, 80)):
        request = RequestSize(3200, 32, 2, image_tokens=400, images=1e6)
        plan = plan_memory(MemoryNeeds(shape(name), precision), request, device * GIB)
        needed = plan.features + plan.prefill + plan.rows * plan.row
        assert 0.8 * plan.free < needed <= plan.free * 1.001, name
        assert plan.row == row_bytes(shape(name), 3232, 2, decode_copies(shape(name)))
        assert plan.prefill == prefill_bytes(shape(name), 2, 3200)


def test_a_number_that_the_user_sets_wins() -> None:
    request = RequestSize(3200, 32, 2, images=1e6)
    plan = plan_memory(MemoryNeeds(shape("7B")), request, 80 * GIB, token_budget=3232 * 5, max_feature_bytes=2**20)
    assert (plan.rows, plan.features) == (20, 2**20)


def test_weights_that_do_not_fit_name_quantizations_several_devices_and_a_larger_one() -> None:
    plan = plan_memory(MemoryNeeds(shape("32B")), RequestSize(3200, 32, 1), 48 * GIB)
    assert plan.problem == (
        "the weights need 62.3 GiB (bfloat16), and a device of 48.0 GiB, less the CUDA context and fragments, has "
        "45.0 GiB free. Use `quantize: int8` (weights 33.3 GiB), "
        "`quantize: nf4` (weights 20.5 GiB), `device_map: auto` over 2 such devices, or a device of at least "
        f"{plan.need / GIB:.1f} GiB."
    )
    assert plan_memory(MemoryNeeds(shape("32B")), RequestSize(3200, 32, 1), plan.need + 1).problem == ""
    assert plan_memory(MemoryNeeds(shape("32B")), RequestSize(3200, 32, 1), plan.need - GIB).problem


def test_a_request_that_does_not_fit_names_how_many_shots_would() -> None:
    request = RequestSize(12_800, 32, 16, shots=32)
    problem = plan_memory(MemoryNeeds(shape("7B")), request, 24 * GIB).problem
    assert problem.startswith("one request of 16 branches with 12,800 tokens needs")
    assert "nf4" not in plan_memory(MemoryNeeds(shape("7B"), NF4), request, 9 * GIB).problem
    tokens = int(problem.split("fewer shots (")[1].split()[0].replace(",", ""))
    assert plan_memory(MemoryNeeds(shape("7B")), RequestSize(tokens, 32, 16), 24 * GIB).problem == ""
    assert plan_memory(MemoryNeeds(shape("7B")), RequestSize(tokens + 1, 32, 16), 24 * GIB).problem
    assert f"about {32 * tokens // 12_800} of 32 shots" in problem


def test_the_vision_tower_shares_its_memory_with_the_prefill() -> None:
    """Both end before the rows are decoded, so that the larger of the two counts."""
    request = RequestSize(3200, 32, 2, image_tokens=400)
    alone, small = MemoryNeeds(shape("7B")), MemoryNeeds(shape("7B"), tower=TOWER)
    assert small.request(request) == alone.request(request)
    large = MemoryNeeds(shape("7B"), tower=replace(TOWER, patches=64_000))
    more = large.tower.peak_bytes(1) - alone.prefill(1, 3200)
    assert large.request(request) == pytest.approx(alone.request(request) + more)
    assert alone.request(request) == pytest.approx(alone.prefill(1, 3200) + 2 * alone.row(3232) + alone.features(3200))


def test_images_are_encoded_together_while_they_fit() -> None:
    one = TOWER.peak_bytes(1)
    assert [TOWER.largest_bytes(limit * one) / one for limit in (0.5, 1, 3.5, 1000)] == pytest.approx([1, 1, 3, 16])


def test_an_image_that_does_not_fit_is_named() -> None:
    needs = MemoryNeeds(shape("7B"), tower=replace(TOWER, patches=200_000))
    problem = plan_memory(needs, RequestSize(1000, 32, 1, image_tokens=900), 24 * GIB).problem
    assert (
        f"smaller images (the vision tower needs {needs.tower.peak_bytes(1) / GIB:.1f} GiB for the largest)" in problem
    )


def test_weights_are_refused_before_loading_with_the_free_memory_of_the_device() -> None:
    needs, larger = MemoryNeeds(shape("7B")), "a device with at least 15.4 GiB free"
    assert shortage(needs, None, 16 * GIB, "cuda:0", larger) == ""
    problem = shortage(needs, None, 6 * GIB, "cuda:0", larger)
    assert problem == (
        "the weights need 15.4 GiB (bfloat16), and cuda:0 has 6.0 GiB free. Use `quantize: int8` (weights 9.4 GiB), "
        "`quantize: nf4` (weights 6.7 GiB), `device_map: auto` over 3 such devices, or a device with at least 15.4 GiB "
        "free."
    )
