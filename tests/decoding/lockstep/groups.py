"""Prompts of mixed lengths under several arms, and an engine that records the outputs of every branch."""

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import checkpoints
import environment

from decoding.arms.arm import Arm, parse_arm
from decoding.engine.requests import DecodingRequest
from decoding.lockstep.engine import run_requests
from icl.models.vllm.engine_io import EngineOutput
from icl.models.vllm.model import VLLM
from icl.types import Prompt

SPREAD = f"{Path(__file__).with_name('spread.py')}:Spread"
ARMS: tuple[Any, ...] = (
    {"name": "vcd", "images": "all"},
    {"name": SPREAD},
    {"name": SPREAD, "branch_count": 6, "sampling": {"temperature": 1.0, "top_p": 0.9}},
    {"name": "vcd", "images": "all", "sampling": {"temperature": 0.7, "top_k": 20}},
    {"name": "mask_only", "of": {"name": "vcd", "images": "all"}},
)
IS_WHOLE = "ICL_TEST_MATRIX" in os.environ
"""Whether every case of a matrix runs (`make test-vllm-long`), or one for each value of each axis (`make test`)."""

WORDS = ("red", "how many are there", "is it to the left of the other one, or not?", "what?", "x" * 60)


def prompts(count: int, seed: int = 0) -> list[Prompt]:
    """Prompts of one to four out of twelve images, so that starts are shared, with questions of 1 to 60 letters."""
    tiny = checkpoints.tiny_models()
    draw = random.Random(seed)
    return [
        tiny.prompt([draw.randrange(12) for _ in range(draw.randrange(1, 5))], draw.choice(WORDS), f"q{seed}-{i}")
        for i in range(count)
    ]


def decoding_requests(count: int, length: int, seed: int = 0, arms: Sequence[Any] = ARMS) -> list[DecodingRequest]:
    """Requests with prompts and arms in turn, shuffled."""
    parsed: list[Arm] = [parse_arm(arm) for arm in arms]
    made = [
        DecodingRequest(p, parsed[i % len(parsed)], max_new_tokens=length) for i, p in enumerate(prompts(count, seed))
    ]
    random.Random(seed).shuffle(made)
    return made


class Watched(VLLM):
    """A VLLM model that records all groups and their outputs. It adds no field: the component is the same."""

    def run_groups(self, groups: Any, done: Any) -> None:
        self.__dict__.setdefault("outputs", [])
        self.__dict__.setdefault("groups", [])

        def on_group(number: int, outputs: list[EngineOutput]) -> None:
            self.__dict__["outputs"].append(outputs)
            done(number, outputs)

        def recorded() -> Any:
            for group in groups:
                self.__dict__["groups"].append(group)
                yield group

        super().run_groups(recorded(), on_group)

    @property
    def group_outputs(self) -> list[list[EngineOutput]]:
        """The outputs of groups with two branches or more."""
        return [outputs for outputs in self.__dict__["outputs"] if len(outputs) > 1]

    @property
    def core(self) -> Any:
        return self.engine.llm.llm_engine.engine_core.engine_core

    @property
    def scheduler(self) -> Any:
        return self.core.scheduler

    def check_runner(self) -> None:
        """Asserts that the engine has the model runner and the queue of steps that the environment asks for."""
        runner = type(self.core.model_executor.driver_worker.worker.model_runner).__module__
        assert (".v1.worker.gpu.model_runner" in runner or ".v1.worker.cpu." in runner) is (
            os.environ.get("ICL_TEST_RUNNER") == "2"
        ), runner
        assert self.core.batch_queue_size == (2 if is_async() else 1)
        assert type(self.scheduler).__name__ == ("AsyncLockstepScheduler" if is_async() else "LockstepScheduler")


def is_async() -> bool:
    """Whether tiny engines plan a step while the step before runs."""
    return os.environ.get("ICL_TEST_ASYNC") == "1"


def tiny_engine(
    folder: Path,
    kind: type[Watched] = Watched,
    adapter: str | None = None,
    merge: bool = False,
    max_model_len: int = 512,
    **engine_args: Any,
) -> Watched:
    settings = {"max_num_seqs": 16, "max_num_batched_tokens": 256} | engine_args
    if is_async():
        environment.allow_async()
        settings["async_scheduling"] = True
    room: dict[str, Any] = {"max_model_len": max_model_len, "max_images": 4, "cache_gib": 0.25}
    return kind(str(folder), **room, adapter=adapter, merge=merge, engine_args=settings)


def greedy_tokens(folder: Path, count: int, seed: int) -> list[tuple[int, list[int]]]:
    """(tokens of the prompt, tokens of the answer) of an engine, for the first prompts of `prompts(12, seed)`."""
    from icl.models.base import Request

    model = tiny_engine(folder)
    try:
        answers = model.generate([Request(prompt, max_new_tokens=8) for prompt in prompts(12, seed=seed)[:count]])
        return [(answer.usage.prompt_tokens, list(answer.tokens)) for answer in answers]
    finally:
        model.unload()


__all__ = [
    "ARMS",
    "IS_WHOLE",
    "Watched",
    "decoding_requests",
    "greedy_tokens",
    "prompts",
    "run_requests",
    "tiny_engine",
]
