"""Prompts of mixed lengths under several arms, asked of an engine, with what every branch of every group said."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import checkpoints

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
WORDS = ("red", "how many are there", "is it to the left of the other one, or not?", "what?", "x" * 60)


def prompts(count: int, seed: int = 0) -> list[Prompt]:
    """One to four images of few, so that beginnings are shared; questions of 1 to 60 letters."""
    tiny = checkpoints.tiny_models()
    draw = random.Random(seed)
    return [
        tiny.prompt([draw.randrange(12) for _ in range(draw.randrange(1, 5))], draw.choice(WORDS), f"q{seed}-{i}")
        for i in range(count)
    ]


def jobs(count: int, length: int, seed: int = 0, arms: Sequence[Any] = ARMS) -> list[DecodingRequest]:
    """Prompts and arms in turn, shuffled."""
    parsed: list[Arm] = [parse_arm(arm) for arm in arms]
    made = [
        DecodingRequest(p, parsed[i % len(parsed)], max_new_tokens=length) for i, p in enumerate(prompts(count, seed))
    ]
    random.Random(seed).shuffle(made)
    return made


class Watched(VLLM):
    """Keeps what every prompt of every group said. As a subclass it adds no field: the component is the same."""

    def run_groups(self, groups: Any, done: Any) -> None:
        self.__dict__.setdefault("heard", [])
        self.__dict__.setdefault("asked", [])

        def hear(number: int, said: list[EngineOutput]) -> None:
            self.__dict__["heard"].append(said)
            done(number, said)

        def tell() -> Any:
            for asks in groups:
                self.__dict__["asked"].append(asks)
                yield asks

        super().run_groups(tell(), hear)

    @property
    def groups_heard(self) -> list[list[EngineOutput]]:
        """Of groups with two branches and more."""
        return [said for said in self.__dict__["heard"] if len(said) > 1]

    @property
    def scheduler(self) -> Any:
        return self.engine.llm.llm_engine.engine_core.engine_core.scheduler


def tiny_engine(
    folder: Path, kind: type[Watched] = Watched, adapter: str | None = None, merge: bool = False, **engine_args: Any
) -> Watched:
    settings = {"max_num_seqs": 16, "max_num_batched_tokens": 256} | engine_args
    room: dict[str, Any] = {"max_model_len": 512, "max_images": 4, "cache_gib": 0.25}
    return kind(str(folder), **room, adapter=adapter, merge=merge, engine_args=settings)


__all__ = ["ARMS", "Watched", "jobs", "prompts", "run_requests", "tiny_engine"]
