"""The plan of a checkpoint says what fits on a device, and what would."""

from dataclasses import replace

import pytest
from published_configs import qwen

from icl.models.hf.memory_estimate import GIB, decode_copies, prefill_bytes, row_bytes
from icl.models.hf.memory_needs import MemoryNeeds, WeightPrecision, weights_problem
from icl.models.hf.memory_plan import plan_memory
from icl.models.hf.request_size import RequestSize
from icl.models.hf.tower_memory import TowerPass, tower_sizes
from tests.icl.models.hf.test_memory_estimate import shape

NF4 = WeightPrecision(quantize="nf4")
TOWER = TowerPass(tower_sizes(qwen("7B")), patches=1600, tokens=400, token_values=3584)


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
        "the weights (62.3 GiB, bfloat16) do not fit into 48.0 GiB, of which 3.0 GiB are for the CUDA context and "
        "fragments. Use `quantize: int8` (weights 33.3 GiB), "
        "`quantize: nf4` (weights 20.5 GiB), `device_map: auto` over several devices, or a device of at least "
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
    assert weights_problem(MemoryNeeds(shape("7B")), 16 * GIB, "cuda:0") == ""
    problem = weights_problem(MemoryNeeds(shape("7B")), 6 * GIB, "cuda:0")
    assert problem == (
        "the weights need 15.4 GiB (bfloat16), and cuda:0 has 6.0 GiB free. Use `quantize: int8` (weights 9.4 GiB), "
        "`quantize: nf4` (weights 6.7 GiB), `device_map: auto` over 3 such devices, or a device with at least 15.4 GiB "
        "free."
    )
