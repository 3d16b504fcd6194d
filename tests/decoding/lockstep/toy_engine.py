"""The toy model behind the interface of an engine that runs strategies: rows of many groups in one batch, no vLLM.

The engine reads the `extra` of an `EngineRequest` as vLLM does. Each step is one call of `select_tokens` on the logits
of all running groups. A group whose branches differ ends with an error, as under the scheduler.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from decoding.lockstep.request_metadata import parse_branch
from decoding.lockstep.step_records import LockstepWorkerExtension
from decoding.lockstep.token_selection import BatchRow, complete_groups, select_tokens
from icl.models.vllm.engine_io import EngineOutput, EngineRequest
from icl.types import Prompt
from tests.decoding.toy import Row as ToyRow
from tests.decoding.toy import Toy


@dataclass
class Running:
    number: int
    requests: Sequence[EngineRequest]
    tokens: list[int] = field(default_factory=list)


class ToyEngine:
    """A toy engine.

    Attributes:
        together: Number of groups in a batch.
        groups: All groups that were submitted.
        refusals: Word -> output of prompts that have it.
    """

    trace = True

    def __init__(self, toy: Toy, together: int = 5, seed: int = 0) -> None:
        self.toy, self.together, self.draw = toy, together, random.Random(seed)
        self.groups: list[Sequence[EngineRequest]] = []
        self.fetched: list[list[str]] = []
        self.refusals: dict[str, EngineOutput] = {}
        self.loaded = 0

    @property
    def stop_tokens(self) -> frozenset[int]:
        return self.toy.stop_tokens

    def load(self) -> None:
        self.loaded += 1

    @property
    def tokenizer(self) -> Any:
        return self.toy.tokenizer

    @property
    def reasoning_block(self) -> None:
        return None

    def render(self, prompt: Prompt) -> str | None:
        return self.toy.render(prompt)

    def count_tokens(self, prompt: Prompt) -> int:
        return self.toy.count_tokens(prompt)

    def text(self, tokens: Sequence[int]) -> str:
        return self.toy.text(tokens)

    def before_answer(self, prompt: Prompt, reasoning: str = "") -> Prompt:
        return self.toy.before_answer(prompt, reasoning)

    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]:
        return self.toy.option_ids(prompt, options)

    def take_records(self, groups: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        self.fetched.append(list(groups))
        return LockstepWorkerExtension().lockstep_take_records(groups)

    def run_groups(
        self, groups: Iterable[Sequence[EngineRequest]], done: Callable[[int, list[EngineOutput]], None]
    ) -> None:
        waiting = enumerate(groups)
        running: list[Running] = []
        while True:
            for number, requests in islice(waiting, self.together - len(running)):
                self.groups.append(requests)
                texts = [request.prompt.text for request in requests]
                wrong = [output for word, output in self.refusals.items() if any(word in text for text in texts)]
                if wrong:
                    done(number, wrong * len(requests))
                else:
                    running.append(Running(number, requests))
            if not running:
                return
            running = self._stepped(running, done)

    def _stepped(self, running: list[Running], done: Callable[[int, list[EngineOutput]], None]) -> list[Running]:
        places = [(group, request) for group in running for request in group.requests]
        self.draw.shuffle(places)
        logits = self.toy.logits_of([ToyRow(request.prompt, group.tokens) for group, request in places])
        rows = [(i, parse_branch(request.extra), len(group.tokens)) for i, (group, request) in enumerate(places)]
        select_tokens(
            logits,
            complete_groups([BatchRow(i, branch, step) for i, branch, step in rows if branch is not None]),
            lambda: self.tokenizer,
        )
        chosen: dict[int, set[int]] = {}
        for (group, _), token in zip(places, torch.argmax(logits, -1).tolist(), strict=True):
            chosen.setdefault(group.number, set()).add(token)
        return [group for group in running if self._goes_on(group, chosen[group.number], done)]

    def _goes_on(self, group: Running, chosen: set[int], done: Callable[[int, list[EngineOutput]], None]) -> bool:
        first, count = group.requests[0], len(group.requests)
        if len(chosen) != 1:
            done(
                group.number,
                [EngineOutput(tuple(group.tokens), "error", "its branches chose different tokens")] * count,
            )
            return False
        group.tokens.append(*chosen)
        stopped = first.stops and group.tokens[-1] in self.stop_tokens
        if stopped or len(group.tokens) == first.max_new_tokens:
            done(group.number, [EngineOutput(tuple(group.tokens), "stop" if stopped else "length")] * count)
            return False
        return True
