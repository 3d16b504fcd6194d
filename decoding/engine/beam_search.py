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

import torch

from decoding.engine.decoding_step import NEG_INF
from decoding.engine.hypotheses import Hypothesis
from decoding.engine.step_batch import LoopStep, StepBatch
from decoding.engine.token_choice import StepChoice
from decoding.engine.trace import StepTrace, step_traces
from decoding.engine.trace_numbers import TRACE_FIELDS, trace_numbers
from decoding.formulas.sampling import Beam
from icl.memory.device_copies import copied_to_device


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
        logprob: Its log-probability, if traces are recorded.
        is_stop_token: Whether the token ends the answer and is not part of it.
        is_stopped: Whether the answer ends by a stop token or a stop string.
        is_finished: Whether the answer ends by that, or by its length.
    """

    beams: AnswerBeams
    parent: int
    score: float
    token: int
    logprob: float
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

    def is_over(self, beams: AnswerBeams) -> bool:
        """Whether no running beam, at its present length, is better than the worst finished one."""
        if len(beams.finished) < self.sampler.beams:
            return False
        score, hypothesis = beams.running[0]
        return not score / hypothesis.steps**self.sampler.length_penalty > beams.finished[-1][0]


class BeamChoice(StepChoice):
    """The best candidates of each answer, of which the host selects those that end and those that continue."""

    def __init__(self, batch: StepBatch, step: LoopStep) -> None:
        """Computes the candidates on the device. batch: all running beams of a group."""
        super().__init__(batch, step)
        assert batch.group.search is not None
        self.search = batch.group.search
        logprobs = self.process(self.scores.log_softmax(-1))
        if batch.group.processors is not None:
            self.scores = logprobs
        self.rows: dict[int, range] = {}  # rows of each answer, by its place
        sums = logprobs + copied_to_device(
            [[score] for beams in self.search.answers for score, _ in beams.running], logprobs.dtype, logprobs.device
        )
        token_logprobs = self.scores.log_softmax(-1) if step.trace else None
        size, start = max(2, 1 + len(step.stop_tokens)) * self.search.sampler.beams, 0
        for place, beams in enumerate(self.search.answers):
            rows = range(start, start + len(beams.running))
            if rows:
                self.rows[place], start = rows, rows.stop
                own = sums[rows.start : rows.stop].flatten()
                best = own.topk(min(size, len(own)))
                self.tensors[f"sums/{place}"], self.tensors[f"places/{place}"] = best.values[None], best.indices[None]
                if token_logprobs is not None:
                    logprob = token_logprobs[rows.start : rows.stop].flatten().index_select(0, best.indices)
                    self.tensors[f"logprobs/{place}"] = logprob[None]
        if step.trace:  # the log-probability of a token is that of its candidate
            self.tensors["trace"] = trace_numbers(self.scores, batch.logits[0], self.scores.argmax(-1))
        self.trace_steps()

    def record(self) -> None:
        answers, hypotheses = self.search.answers, self.batch.hypotheses
        selected: list[BeamCandidate] = []
        for place, rows in self.rows.items():
            fault = next((fault for row in rows if (fault := self.fault(row))), "")
            if fault:
                answers[place].fail(fault)
            else:
                selected += self._select(place, rows)
        traces: Sequence[StepTrace | None] = [None] * len(hypotheses)
        if rows_read := self.step_trace_rows():
            strategy, num_branches = self.batch.group.strategy, len(self.batch.logits)
            made = step_traces(strategy, num_branches, rows_read, [0] * len(hypotheses))
            traces = [
                trace.with_top(hypothesis.top_logprobs) if hypothesis.top_logprobs else None
                for hypothesis, trace in zip(hypotheses, made, strict=True)
            ]
        changed = list({id(one.beams): one.beams for one in selected}.values())
        for beams in changed:
            beams.running = []
        for one in selected:
            self._extend(one, hypotheses[one.parent], traces[one.parent])
        for beams in changed:
            beams.finished = sorted(beams.finished, key=lambda pair: -pair[0])[: self.search.sampler.beams]
            if not beams.running or self.search.is_over(beams):
                beams.finish()

    def _select(self, place: int, rows: range) -> list[BeamCandidate]:
        """The candidates that end, among as many of the best as there are beams, and the best that continue."""
        beams, size = self.search.answers[place], self.scores.shape[-1]
        (sums,), (flat_places,) = self.numbers[f"sums/{place}"], self.numbers[f"places/{place}"]
        logprobs = self.numbers.get(f"logprobs/{place}", [[0.0] * len(sums)])[0]
        length, max_beams = len(beams.running[0][1].tokens) + 1, self.search.sampler.beams
        pairs = [divmod(int(flat), size) for flat in flat_places]
        stopped = [token in self.step.stop_tokens for _, token in pairs]
        if self.batch.group.stop_criterion is not None:
            extended = torch.tensor([[*beams.running[row][1].tokens, token] for row, token in pairs])
            completes = self.batch.group.stop_criterion(extended, None).tolist()
            stopped = [a or b for a, b in zip(stopped, completes, strict=True)]
        selected: list[BeamCandidate] = []
        num_running = 0
        for rank, (score, (row, token), is_stopped, logprob) in enumerate(
            zip(sums, pairs, stopped, logprobs, strict=True)
        ):
            is_finished = is_stopped or length >= beams.answer.max_new_tokens
            is_full = rank >= max_beams if is_finished else num_running >= max_beams
            if score == NEG_INF or is_full:
                continue
            num_running += not is_finished
            is_stop_token = token in self.step.stop_tokens
            selected.append(
                BeamCandidate(beams, rows[row], score, token, logprob, is_stop_token, is_stopped, is_finished)
            )
        return selected

    def _extend(self, one: BeamCandidate, parent: Hypothesis, step_trace: StepTrace | None) -> None:
        """Makes a hypothesis of a candidate and sorts it into the beams of its answer."""
        trace = parent.trace
        if "trace" in self.numbers:
            line = list(self.numbers["trace"][one.parent])
            line[TRACE_FIELDS.index("logprob")] = one.logprob
            trace = [*trace, line]
        hypothesis = replace(
            parent,
            rows=list(parent.rows),
            steps=parent.steps + 1,
            tokens=parent.tokens if one.is_stop_token else [*parent.tokens, one.token],
            finish="stop" if one.is_stopped else "length" if one.is_finished else "",
            trace=trace,
            step_traces=parent.step_traces + ([] if step_trace is None else [replace(step_trace, chosen=one.token)]),
            memory=dict(parent.memory),
            undecided_steps=parent.undecided_steps + (trace is not parent.trace and trace[-1][0] > 1),
        )
        if one.is_finished:
            score = one.score / hypothesis.steps**self.search.sampler.length_penalty
            one.beams.finished.append((score, hypothesis))
        else:
            one.beams.running.append((one.score, hypothesis))
