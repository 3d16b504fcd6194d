"""Beam search on combined scores: the answer as a whole is likely, not each token for itself.

A beam is a lane of the loop like any other, with its own rows; beams that share their past share rows. At every step
the combined scores are log-softmaxed again (a contrast's constants differ from beam to beam) and added up; of twice as
many candidates as beams those that end are kept as answers, by their sum over their length to the power of the length
penalty, and the best others run on. It is over when no running beam, at its present length, is better than the worst
of as many kept answers. One beam is greedy decoding. The rules are those of transformers' `generate(num_beams=…)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from decoding.base import Strategy
from decoding.engine.decoding_step import NEG_INF, scores
from decoding.engine.token_loop import Hypothesis, trace_step
from decoding.engine.trace import StepTrace, step_traces
from decoding.formulas.sampling import Beam

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class AnswerBeams:
    """The beams of one answer. answer: the lane that the best is written into. Scores are sums; in `done` final."""

    answer: Hypothesis
    running: list[tuple[float, Hypothesis]] = field(default_factory=list)
    done: list[tuple[float, Hypothesis]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.running = [(0.0, replace(self.answer, rows=list(self.answer.rows)))]

    def end(self) -> None:
        """Writes the best beam into the answer."""
        self.running = []
        best = max(self.done, key=lambda one: one[0])[1]  # of equals the first
        for name in ("tokens", "steps", "finish", "trace", "step_traces", "memory", "contrasted"):
            setattr(self.answer, name, getattr(best, name))

    def fail(self, fault: str) -> None:
        self.running, self.answer.finish, self.answer.fault = [], "fault", fault


@dataclass
class BeamCandidate:
    """A candidate that is kept. parent: its place among the lanes. stops: by its token; ends: by that or its length."""

    of: AnswerBeams
    parent: int
    score: float
    token: int
    stops: bool
    ends: bool


class BeamSearch:
    """The beams of a track's answers. lanes: of all running beams, as the loop advances them."""

    def __init__(self, sampler: Beam, answers: Sequence[Hypothesis]) -> None:
        self.sampler, self.answers = sampler, [AnswerBeams(answer) for answer in answers]

    @property
    def lanes(self) -> list[Hypothesis]:
        return [lane for beams in self.answers for _, lane in beams.running]

    def step(
        self,
        strategy: Strategy,
        lanes: Sequence[Hypothesis],
        own: "Tensor",
        *,
        step: int,
        stops: frozenset[int],
        trace: bool,
    ) -> list[Hypothesis]:
        """The lanes that run on. own: [n, B, V] logits of the lanes' branches."""
        combined, faults = scores(strategy, own, step, lanes)
        told = combined.log_softmax(-1)
        place = {id(lane): i for i, lane in enumerate(lanes)}
        kept: list[BeamCandidate] = []
        for beams in self.answers:
            rows = [place[id(lane)] for _, lane in beams.running]
            fault = next((faults[row] for row in rows if row in faults), "")
            if fault:
                beams.fail(fault)
            elif rows:
                kept += self._kept(beams, rows, told, stops)
        parents, tokens = [child.parent for child in kept], [child.token for child in kept]
        chosen = torch.tensor(tokens, dtype=torch.long, device=combined.device)
        numbers = trace_step(combined[parents], own[0][parents], chosen) if trace and kept else [None] * len(kept)
        top = max((lane.top for lane in lanes), default=0)
        seen: Sequence[StepTrace | None] = [None] * len(kept)
        if top and kept:
            states = [lanes[parent] for parent in parents]
            seen = step_traces(strategy, own[:, parents], combined[parents], tokens, step=step, states=states, top=top)
        self._born(kept, lanes, list(zip(numbers, seen, strict=True)))
        for beams in {id(child.of): child.of for child in kept}.values():
            if not beams.running or self._settled(beams):
                beams.end()
        return self.lanes

    def _kept(
        self, beams: AnswerBeams, rows: Sequence[int], told: "Tensor", stops: frozenset[int]
    ) -> list[BeamCandidate]:
        """The candidates that end, of the best as many as there are beams, and the best that go on."""
        sums = told[list(rows)] + told.new_tensor([score for score, _ in beams.running])[:, None]
        wanted = max(2, 1 + len(stops)) * self.sampler.beams
        best = sums.flatten().topk(min(wanted, sums.numel()))
        length = len(beams.running[0][1].tokens) + 1
        found: list[BeamCandidate] = []
        on = 0
        for rank, (score, flat) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            row, token = divmod(flat, sums.shape[-1])
            ends = token in stops or length >= beams.answer.limit
            if score == NEG_INF or (ends and rank >= self.sampler.beams) or (not ends and on >= self.sampler.beams):
                continue
            on += not ends
            found.append(BeamCandidate(beams, rows[row], score, token, token in stops, ends))
        return found

    def _born(
        self,
        kept: Sequence[BeamCandidate],
        lanes: Sequence[Hypothesis],
        told: Sequence[tuple[list[float] | None, StepTrace | None]],
    ) -> None:
        """A lane for each, under its beams. told: its line of the trace, and what its branches said."""
        for beams in {id(child.of): child.of for child in kept}.values():
            beams.running = []
        for child, (numbers, look) in zip(kept, told, strict=True):
            parent = lanes[child.parent]
            lane = replace(
                parent,
                rows=list(parent.rows),
                steps=parent.steps + 1,
                tokens=parent.tokens if child.stops else [*parent.tokens, child.token],
                finish="stop" if child.stops else "length" if child.ends else "",
                trace=parent.trace if numbers is None else [*parent.trace, numbers],
                step_traces=parent.step_traces if look is None else [*parent.step_traces, look],
                memory=dict(parent.memory),
                contrasted=parent.contrasted + (numbers is not None and numbers[0] > 1),
            )
            if child.ends:
                child.of.done.append((child.score / lane.steps**self.sampler.length_penalty, lane))
            else:
                child.of.running.append((child.score, lane))
        for beams in {id(child.of): child.of for child in kept}.values():
            beams.done = sorted(beams.done, key=lambda one: -one[0])[: self.sampler.beams]

    def _settled(self, beams: AnswerBeams) -> bool:
        """Whether no running beam could stand among the answers that are kept, at its present length."""
        if len(beams.done) < self.sampler.beams:
            return False
        score, lane = beams.running[0]
        return not score / lane.steps**self.sampler.length_penalty > beams.done[-1][0]
