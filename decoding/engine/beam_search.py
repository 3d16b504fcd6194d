"""Beam search on combined scores: finds an answer that is likely as a whole.

A beam is a hypothesis of the token loop with rows of its own; beams with equal tokens share rows. At each step the
combined scores are log-softmaxed again, because the constant of a contrast differs from beam to beam, and added up. Of
the best candidates (twice as many as beams), those that end are finished answers. Their score is the sum over their
length to the power of the length penalty. The best of the others continue. The search ends when no running beam, at its
present length, is better than the worst of as many finished answers. One beam is greedy decoding. The rules are those
of transformers' `generate(num_beams=...)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from decoding.engine.decoding_step import NEG_INF, combine_branches
from decoding.engine.logits_processors import apply_processors
from decoding.engine.token_loop import DecodingGroup, Hypothesis, trace_step
from decoding.engine.trace import StepTrace, trace_branches
from decoding.formulas.sampling import Beam

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class AnswerBeams:
    """The beams of one answer.

    Attributes:
        answer: Hypothesis that receives the best beam.
        running: Beams with the sum of their log-probabilities, best first.
        finished: Finished beams with their length-normalized score, best first.
    """

    answer: Hypothesis
    running: list[tuple[float, Hypothesis]] = field(default_factory=list)
    finished: list[tuple[float, Hypothesis]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.running = [(0.0, replace(self.answer, rows=list(self.answer.rows)))]

    def finish(self) -> None:
        """Writes the best beam into the answer; the first of equally good ones."""
        self.running = []
        best = max(self.finished, key=lambda one: one[0])[1]
        for name in ("tokens", "steps", "finish", "trace", "step_traces", "memory", "undecided_steps"):
            setattr(self.answer, name, getattr(best, name))

    def fail(self, fault: str) -> None:
        """Ends the answer with a fault."""
        self.running, self.answer.finish, self.answer.fault = [], "fault", fault


@dataclass
class BeamCandidate:
    """A beam extended by one token.

    Attributes:
        beams: The beams of its answer.
        parent: Index of the extended beam among the hypotheses.
        score: Sum of log-probabilities.
        token: The added token.
        is_stop_token: Whether the token ends the answer and is not part of it.
        is_stopped: Whether the answer ends by a stop token or a stop string.
        is_finished: Whether the answer ends by that, or by its length.
    """

    beams: AnswerBeams
    parent: int
    score: float
    token: int
    is_stop_token: bool
    is_stopped: bool
    is_finished: bool


class BeamSearch:
    """Beam search over the answers of one decoding group."""

    def __init__(self, sampler: Beam, answers: Sequence[Hypothesis]) -> None:
        self.sampler, self.answers = sampler, [AnswerBeams(answer) for answer in answers]

    @property
    def hypotheses(self) -> list[Hypothesis]:
        """All running beams."""
        return [hypothesis for beams in self.answers for _, hypothesis in beams.running]

    def step(
        self,
        group: DecodingGroup,
        hypotheses: Sequence[Hypothesis],
        logits: "Tensor",
        *,
        step: int,
        stop_tokens: frozenset[int],
        trace: bool,
    ) -> list[Hypothesis]:
        """Extends all beams by one token.

        Args:
            group: Strategy, processors and stop strings of the beams.
            hypotheses: The running beams.
            logits: Logits of their branches, [n, B, V].
            step: Number of the token, from 0.
            stop_tokens: Tokens that end an answer.
            trace: Whether to record TRACE_FIELDS.

        Returns:
            The beams that continue.
        """
        scores, faults = combine_branches(group.strategy, logits, step, hypotheses)
        logprobs = scores.log_softmax(-1)
        if group.processors is not None:
            logprobs, processor_faults = apply_processors(group.processors, logprobs, step, hypotheses)
            scores, faults = logprobs, processor_faults | faults
        index = {id(hypothesis): i for i, hypothesis in enumerate(hypotheses)}
        selected: list[BeamCandidate] = []
        for beams in self.answers:
            rows = [index[id(hypothesis)] for _, hypothesis in beams.running]
            fault = next((faults[row] for row in rows if row in faults), "")
            if fault:
                beams.fail(fault)
            elif rows:
                selected += self._select(group, beams, rows, logprobs, stop_tokens)
        parents, tokens = [one.parent for one in selected], [one.token for one in selected]
        chosen = torch.tensor(tokens, dtype=torch.long, device=scores.device)
        numbers: Sequence[list[float] | None] = [None] * len(selected)
        if trace and selected:
            numbers = trace_step(scores[parents], logits[0][parents], chosen)
        top = max((hypothesis.top_logprobs for hypothesis in hypotheses), default=0)
        step_traces: Sequence[StepTrace | None] = [None] * len(selected)
        if top and selected:
            states = [hypotheses[parent] for parent in parents]
            step_traces = trace_branches(
                group.strategy, logits[:, parents], scores[parents], tokens, step=step, states=states, top=top
            )
        self._extend(selected, hypotheses, numbers, step_traces)
        for beams in {id(one.beams): one.beams for one in selected}.values():
            if not beams.running or self._is_over(beams):
                beams.finish()
        return self.hypotheses

    def _select(
        self,
        group: DecodingGroup,
        beams: AnswerBeams,
        rows: Sequence[int],
        logprobs: "Tensor",
        stop_tokens: frozenset[int],
    ) -> list[BeamCandidate]:
        """The candidates that end, among as many of the best as there are beams, and the best that continue."""
        sums = logprobs[list(rows)] + logprobs.new_tensor([score for score, _ in beams.running])[:, None]
        count = max(2, 1 + len(stop_tokens)) * self.sampler.beams
        best = sums.flatten().topk(min(count, sums.numel()))
        length = len(beams.running[0][1].tokens) + 1
        pairs = [divmod(flat, sums.shape[-1]) for flat in best.indices.tolist()]
        stopped = [token in stop_tokens for _, token in pairs]
        if group.stop_criterion is not None:
            extended = torch.tensor([[*beams.running[row][1].tokens, token] for row, token in pairs])
            completes = group.stop_criterion(extended, None).tolist()
            stopped = [a or b for a, b in zip(stopped, completes, strict=True)]
        selected: list[BeamCandidate] = []
        num_running = 0
        for rank, (score, (row, token), is_stopped) in enumerate(
            zip(best.values.tolist(), pairs, stopped, strict=True)
        ):
            is_finished = is_stopped or length >= beams.answer.max_new_tokens
            is_full = rank >= self.sampler.beams if is_finished else num_running >= self.sampler.beams
            if score == NEG_INF or is_full:
                continue
            num_running += not is_finished
            selected.append(
                BeamCandidate(beams, rows[row], score, token, token in stop_tokens, is_stopped, is_finished)
            )
        return selected

    def _extend(
        self,
        selected: Sequence[BeamCandidate],
        hypotheses: Sequence[Hypothesis],
        numbers: Sequence[list[float] | None],
        step_traces: Sequence[StepTrace | None],
    ) -> None:
        """Makes a hypothesis of each candidate and sorts it into the beams of its answer."""
        for beams in {id(one.beams): one.beams for one in selected}.values():
            beams.running = []
        for one, line, step_trace in zip(selected, numbers, step_traces, strict=True):
            parent = hypotheses[one.parent]
            hypothesis = replace(
                parent,
                rows=list(parent.rows),
                steps=parent.steps + 1,
                tokens=parent.tokens if one.is_stop_token else [*parent.tokens, one.token],
                finish="stop" if one.is_stopped else "length" if one.is_finished else "",
                trace=parent.trace if line is None else [*parent.trace, line],
                step_traces=parent.step_traces if step_trace is None else [*parent.step_traces, step_trace],
                memory=dict(parent.memory),
                undecided_steps=parent.undecided_steps + (line is not None and line[0] > 1),
            )
            if one.is_finished:
                score = one.score / hypothesis.steps**self.sampler.length_penalty
                one.beams.finished.append((score, hypothesis))
            else:
                one.beams.running.append((one.score, hypothesis))
        for beams in {id(one.beams): one.beams for one in selected}.values():
            beams.finished = sorted(beams.finished, key=lambda pair: -pair[0])[: self.sampler.beams]

    def _is_over(self, beams: AnswerBeams) -> bool:
        """Whether no running beam, at its present length, is better than the worst finished one."""
        if len(beams.finished) < self.sampler.beams:
            return False
        score, hypothesis = beams.running[0]
        return not score / hypothesis.steps**self.sampler.length_penalty > beams.finished[-1][0]
