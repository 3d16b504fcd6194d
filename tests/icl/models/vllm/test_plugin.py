"""vLLM's own `LLM` with strategies, by the plug-in and one key."""

import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import groups
from vllm import LLM, SamplingParams
from vllm.engine.arg_utils import EngineArgs

from decoding.arms.arm import parse_arm
from decoding.engine.requests import DecodingRequest
from decoding.lockstep.request_metadata import BranchMetadata, serialize
from icl.models.vllm.plugin import add_lockstep, register
from icl.types import Generation

ARGUMENTS: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 512,
    "max_num_seqs": 8,
    "enforce_eager": True,
    "block_size": 32,
    "limit_mm_per_prompt": {"image": 4, "video": 0},
    "kv_cache_memory_bytes": 2**27,
    "seed": 0,
    "mm_device_do_normalize": False,
}


@pytest.fixture(autouse=True)
def plugged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EngineArgs, "create_engine_config", EngineArgs.create_engine_config)  # restored afterwards
    register()
    register()


def test_the_distribution_offers_the_plug_in_to_vllm() -> None:
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["vllm.general_plugins"]["lockstep"].partition(":")
    assert getattr(import_module(module), name) is register


def test_one_key_gives_vllms_own_engine_strategies() -> None:
    folder = checkpoints.shared("llava")
    arm, prompt = parse_arm({"name": groups.SPREAD}), groups.prompts(2, seed=81)[1]
    ours = groups.tiny_engine(folder)
    (expected,) = groups.run_requests(ours, [DecodingRequest(prompt, arm, max_new_tokens=6)])
    inputs = [ours.engine.inputs._unprocessed(branch) for branch in arm.strategy.branches(prompt)]
    ours.unload()
    assert isinstance(expected, Generation)
    llm = LLM(str(folder), additional_config={"lockstep": True}, **ARGUMENTS)
    metadata = [BranchMetadata("mine", b, 3, serialize(arm.strategy, arm.sampler), prompt.key.seed, prompt.key.query)
                for b in range(3)]  # fmt: skip
    parameters = [
        SamplingParams(temperature=0, max_tokens=6, stop_token_ids=list(checkpoints.STOPS), ignore_eos=True,
                       extra_args=one.extra_args())
        for one in metadata
    ]  # fmt: skip
    outputs = [output.outputs[0].token_ids for output in llm.generate(inputs, parameters, use_tqdm=False)]
    assert outputs[0] == outputs[1] == outputs[2]
    assert [token for token in outputs[0] if token not in checkpoints.STOPS] == list(expected.tokens)
    llm.llm_engine.engine_core.shutdown()


def test_without_the_key_an_engine_is_vllms_own() -> None:
    for more in ({}, {"additional_config": {"lockstep": False}}, {"additional_config": {"other": 1}}):
        config = EngineArgs(str(checkpoints.shared("llava")), **ARGUMENTS, **more).create_engine_config()
        assert config.scheduler_config.scheduler_cls is None
        assert not config.model_config.logits_processors
        assert not config.parallel_config.worker_extension_cls


@pytest.mark.parametrize(("async_scheduling", "name"), [(None, "Async"), (True, "Async"), (False, "")])
def test_the_scheduler_follows_the_way_in_which_steps_are_planned(async_scheduling: bool | None, name: str) -> None:
    arguments = EngineArgs(
        str(checkpoints.shared("llava")), async_scheduling=async_scheduling, logits_processors=["a:B"]
    )
    for _ in range(2):
        add_lockstep(arguments)
        assert arguments.scheduler_cls == f"decoding.lockstep.scheduler.{name}LockstepScheduler"
        assert [p.rpartition(":")[2] for p in arguments.logits_processors] == ["B", "LockstepLogitsProcessor"]


def test_another_scheduler_and_an_odd_value_are_errors_with_a_message() -> None:
    folder = str(checkpoints.shared("llava"))
    with pytest.raises(ValueError, match=r"needs scheduler_cls=decoding\..*, but it is my\.Scheduler\. Remove one"):
        EngineArgs(folder, additional_config={"lockstep": True}, scheduler_cls="my.Scheduler").create_engine_config()
    with pytest.raises(ValueError, match="'lockstep' is true or false, not 'yes'"):
        EngineArgs(folder, additional_config={"lockstep": "yes"}).create_engine_config()
