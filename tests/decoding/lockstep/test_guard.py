"""An engine that cannot decode groups is refused when it starts, with every reason."""

from types import SimpleNamespace
from typing import Any

import pytest

from decoding.lockstep.guard import SCHEDULER, check_engine


def engine(**changes: Any) -> Any:
    scheduler = {"scheduler_cls": SCHEDULER, "async_scheduling": False, "policy": "fcfs"}
    parallel = {"pipeline_parallel_size": 1, "data_parallel_size": 1}
    own = {
        "speculative_config": None,
        "kv_transfer_config": None,
        "use_v2_model_runner": False,
        "additional_config": {},
    }
    device, model = {"device_type": "cpu"}, {"is_mm_prefix_lm": False}
    for key, value in changes.items():
        next(part for part in (scheduler, parallel, device, model, own) if key in part)[key] = value
    return SimpleNamespace(
        scheduler_config=SimpleNamespace(**scheduler),
        parallel_config=SimpleNamespace(**parallel),
        device_config=SimpleNamespace(**device),
        model_config=SimpleNamespace(**model),
        **own,
    )


def test_the_engine_of_the_plug_in_passes() -> None:
    check_engine(engine(), "0.32.1")


@pytest.mark.parametrize(
    ("changes", "version", "sentence"),
    [
        ({}, "0.33.0", r"vLLM 0\.33\.0 was not verified"),
        ({"scheduler_cls": None}, "0.32.0", "drift apart"),
        ({"async_scheduling": True}, "0.32.0", "async_scheduling=False"),
        ({"speculative_config": object()}, "0.32.0", "speculative"),
        ({"policy": "priority"}, "0.32.0", "preempts single branches"),
        ({"pipeline_parallel_size": 2}, "0.32.0", "pipeline"),
        ({"data_parallel_size": 2}, "0.32.0", "one engine for each replica"),
        ({"kv_transfer_config": object()}, "0.32.0", "kv_transfer_config"),
        ({"is_mm_prefix_lm": True}, "0.32.0", "tokens of a picture see each other"),
        ({"use_v2_model_runner": True}, "0.32.0", "VLLM_USE_V2_MODEL_RUNNER=0"),
    ],
)
def test_what_was_not_verified_is_refused(changes: dict[str, Any], version: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_engine(engine(**changes), version)


def test_a_mask_of_pictures_is_left_to_gpus() -> None:
    check_engine(engine(is_mm_prefix_lm=True, device_type="cuda"), "0.32.1")


def test_all_reasons_are_told_at_once_and_single_ones_can_be_taken_back() -> None:
    with pytest.raises(ValueError, match="async_scheduling") as told:
        check_engine(engine(async_scheduling=True, policy="priority"), "0.40")
    assert "priority" in str(told.value)
    assert "0.40" in str(told.value)
    check_engine(engine(additional_config={"lockstep_allow": ["version"]}), "0.40")
