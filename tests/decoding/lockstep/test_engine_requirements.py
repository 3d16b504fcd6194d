"""An engine that cannot decode groups is refused when it starts, with every reason."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from decoding.lockstep.engine import ASYNC_SCHEDULER, SCHEDULER, additional_config, check_engine


def engine(**changes: Any) -> Any:
    scheduler = {
        "scheduler_cls": SCHEDULER,
        "async_scheduling": False,
        "policy": "fcfs",
        "prefill_schedule_interval": 1,
    }
    parallel = {"pipeline_parallel_size": 1, "data_parallel_size": 1, "enable_batch_sharded_sampling": False}
    own: dict[str, Any] = {
        "speculative_config": None,
        "kv_transfer_config": None,
        "watermark_config": None,
        "additional_config": {},
    }
    device, model = {"device_type": "cpu"}, {"is_mm_prefix_lm": False, "is_diffusion": False}
    for key, value in changes.items():
        next(part for part in (scheduler, parallel, device, model, own) if key in part)[key] = value
    return SimpleNamespace(
        scheduler_config=SimpleNamespace(**scheduler),
        parallel_config=SimpleNamespace(**parallel),
        device_config=SimpleNamespace(**device),
        model_config=SimpleNamespace(**model),
        **own,
    )


def test_the_configuration_of_the_plug_in_is_accepted() -> None:
    check_engine(engine(), "0.32.1")
    check_engine(engine(), "0.33.0")
    check_engine(engine(scheduler_cls=ASYNC_SCHEDULER, async_scheduling=True), "0.33.0")
    check_engine(engine(scheduler_cls=ASYNC_SCHEDULER), "0.33.0")  # vLLM turns async scheduling off on a CPU


def test_the_scheduler_class_is_accepted_in_place_of_its_name() -> None:
    check_engine(engine(scheduler_cls=type("LockstepScheduler", (), {})), "0.32.1")
    with pytest.raises(ValueError, match=f"pass scheduler_cls={SCHEDULER}"):
        check_engine(engine(scheduler_cls=type("Scheduler", (), {})), "0.32.1")


def test_an_engine_without_groups_may_schedule_as_vllm_does() -> None:
    for scheduler in ("a.PlainScheduler", "a.AsyncPlainScheduler"):
        check_engine(engine(scheduler_cls=scheduler, policy="priority", prefill_schedule_interval=4), "0.32.1")
        with pytest.raises(ValueError, match="speculative"):
            check_engine(engine(scheduler_cls=scheduler, speculative_config=object()), "0.32.1")


NOT_VERIFIED: tuple[tuple[str, dict[str, Any], str, str], ...] = (
    ("version", {}, "0.34.0", r"vLLM 0\.34\.0 was not verified \(verified: 0\.32\.x, 0\.33\.x\)$"),
    ("scheduler", {"scheduler_cls": None}, "0.32.0", "drift apart"),
    ("scheduler", {"scheduler_cls": "a.Scheduler", "async_scheduling": True}, "0.32.0", f"={ASYNC_SCHEDULER}$"),
    ("async", {"async_scheduling": True}, "0.32.0", f"async_scheduling=False, or scheduler_cls={ASYNC_SCHEDULER}$"),
    ("interval", {"prefill_schedule_interval": 4}, "0.32.0", "prefill_schedule_interval=1$"),
    ("sharded", {"enable_batch_sharded_sampling": True}, "0.33.0", "remove enable_batch_sharded_sampling$"),
    ("watermark", {"watermark_config": object()}, "0.33.0", "remove watermark_config$"),
    ("diffusion", {"is_diffusion": True}, "0.33.0", "use another model$"),
    ("speculative", {"speculative_config": object()}, "0.32.0", "speculative"),
    ("policy", {"policy": "priority"}, "0.32.0", "preempts single branches"),
    ("pipeline", {"pipeline_parallel_size": 2}, "0.32.0", "pass pipeline_parallel_size=1$"),
    ("data", {"data_parallel_size": 2}, "0.32.0", "one engine for each replica"),
    ("transfer", {"kv_transfer_config": object()}, "0.32.0", "kv_transfer_config"),
    ("image mask", {"is_mm_prefix_lm": True}, "0.32.0", "tokens of an image attend to each other"),
)


@pytest.mark.parametrize(("name", "changes", "version", "sentence"), NOT_VERIFIED)
def test_unverified_configurations_are_refused(name: str, changes: dict[str, Any], version: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^strategies cannot run in this engine: .*{sentence}"):
        check_engine(engine(**changes), version)
    check_engine(engine(**changes, additional_config={"lockstep_allow": [name]}), version)  # taken back by its name


def test_the_version_is_that_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__="0.99.1"))
    with pytest.raises(ValueError, match=r"vLLM 0\.99\.1 was not verified"):
        check_engine(engine())
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__="0.32.9"))
    check_engine(engine())


def test_an_additional_config_that_is_no_mapping_is_ignored() -> None:
    assert additional_config(engine(additional_config=object())) == {}
    assert additional_config(engine(additional_config={"lockstep_patience": 5})) == {"lockstep_patience": 5}


def test_models_with_image_masks_need_a_gpu() -> None:
    check_engine(engine(is_mm_prefix_lm=True, device_type="cuda"), "0.32.1")


def test_all_reasons_are_reported_at_once_and_single_ones_can_be_accepted() -> None:
    with pytest.raises(ValueError, match="async_scheduling") as error:
        check_engine(engine(async_scheduling=True, policy="priority"), "0.40")
    assert "priority" in str(error.value)
    assert "0.40" in str(error.value)
    check_engine(engine(additional_config={"lockstep_allow": ["version"]}), "0.40")
