"""The toy model behind the interface of an engine that runs strategies: rows of many groups in one batch, no vLLM.

Requests are read as vLLM is told them (an `Ask` with its `extra`); each step is one call of `force` on the logits of
all that run. A group whose branches differ ends with an error, as under the scheduler.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from decoding.lockstep.request_metadata import parse_branch
from decoding.lockstep.token_selection import BatchRow, complete_groups, select_tokens
from decoding.lockstep.worker_extension import LockstepWorkerExtension
from icl.models.vllm.engine_io import EngineOutput, EngineRequest
from icl.types import Prompt
from tests.decoding.toy import Row as ToyRow
from tests.decoding.toy import Toy


@dataclass
class Running:
    number: int
    asks: Sequence[EngineRequest]
    tokens: list[int] = field(default_factory=list)


class ToyEngine:
    """together: groups in a batch. asked: every group that came. refused: a word -> why its prompts are not taken."""

    trace = True

    def __init__(self, toy: Toy, together: int = 5, seed: int = 0) -> None:
        self.toy, self.together, self.draw = toy, together, random.Random(seed)
        self.asked: list[Sequence[EngineRequest]] = []
        self.fetched: list[list[str]] = []
        self.refused: dict[str, EngineOutput] = {}
        self.loaded = 0

    @property
    def stop_tokens(self) -> frozenset[int]:
        return self.toy.stop_tokens

    def load(self) -> None:
        self.loaded += 1

    def count_tokens(self, prompt: Prompt) -> int:
        return self.toy.count_tokens(prompt)

    def text(self, tokens: Sequence[int]) -> str:
        return self.toy.text(tokens)

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
            for number, asks in islice(waiting, self.together - len(running)):
                self.asked.append(asks)
                wrong = [said for word, said in self.refused.items() if any(word in ask.prompt.text for ask in asks)]
                if wrong:
                    done(number, wrong * len(asks))
                else:
                    running.append(Running(number, asks))
            if not running:
                return
            running = self._stepped(running, done)

    def _stepped(self, running: list[Running], done: Callable[[int, list[EngineOutput]], None]) -> list[Running]:
        places = [(group, ask) for group in running for ask in group.asks]
        self.draw.shuffle(places)
        logits = self.toy.logits_of([ToyRow(ask.prompt, group.tokens) for group, ask in places])
        told = [(i, parse_branch(ask.extra), len(group.tokens)) for i, (group, ask) in enumerate(places)]
        select_tokens(
            logits, complete_groups([BatchRow(i, branch, step) for i, branch, step in told if branch is not None])
        )
        chosen: dict[int, set[int]] = {}
        for (group, _), token in zip(places, torch.argmax(logits, -1).tolist(), strict=True):
            chosen.setdefault(group.number, set()).add(token)
        return [group for group in running if self._goes_on(group, chosen[group.number], done)]

    def _goes_on(self, group: Running, chosen: set[int], done: Callable[[int, list[EngineOutput]], None]) -> bool:
        first, count = group.asks[0], len(group.asks)
        if len(chosen) != 1:
            done(group.number, [EngineOutput(tuple(group.tokens), "error", "its branches chose apart")] * count)
            return False
        group.tokens.append(*chosen)
        stopped = first.stops and group.tokens[-1] in self.stop_tokens
        if stopped or len(group.tokens) == first.max_new_tokens:
            done(group.number, [EngineOutput(tuple(group.tokens), "stop" if stopped else "length")] * count)
            return False
        return True
