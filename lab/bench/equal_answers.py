"""Whether two states of the code give the same answers and traces, to the last digit. A speedup must change neither.

`python -m lab.bench.equal_answers FILE` writes the answers of 36 arms to 6 prompts, of 8 and of 24 tokens, under two
schedules of their contrasts: 864 requests. If FILE exists, it compares them with FILE, and fails if any differs.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from decoding.arms.arm import default_controls, parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest, Failure
from icl.models.hf.model import HF
from icl.types import Generation
from lab.bench import one_thread
from lab.bench.decoding import Endless, prompts_of
from lab.bench.device_traffic import twelve_arms

CONTRASTS = ("icd", "m3id", "code", "ced", "cd_k", "cfg", "dcd", "coiecd", "adacad", "crops", "vcd", "chasd")
STRATEGIES = (*CONTRASTS, "moicl", "beam")


def answers(model: HF) -> Iterator[Generation | Failure]:
    """The answers of a model with their traces, under each schedule, with ends of text and without."""
    model.load()
    arms = [*twelve_arms(), *default_controls(parse_arm("vcd")), *map(parse_arm, STRATEGIES)]
    prompts = [*prompts_of(0)[:4], *prompts_of(3)[:2]]
    endless: Any = Endless(model)
    with one_thread():
        for lazy_branches in ("auto", "never"):
            for answering, length in ((model, 8), (endless, 24)):
                requests = [DecodingRequest(one, arm, max_new_tokens=length) for one in prompts for arm in arms]
                yield from run_requests(answering, requests, lazy_branches=lazy_branches)


def main(path: str) -> None:
    """Writes the answers to a file, or compares them with it."""
    made, file = list(map(repr, answers(HF(path="tiny", dtype="float32", device="cpu")))), Path(path)
    if not file.exists():
        file.write_text(json.dumps(made))
    before = json.loads(file.read_text())
    equal = sum(map(str.__eq__, made, before))
    print(f"{equal} of {len(made)} answers and traces are equal ({len(before)} in {file}).")
    sys.exit(not equal == len(made) == len(before))


if __name__ == "__main__":
    main(*sys.argv[1:])
