"""The choice of tokens at a step: computed on the device, read by the host together with all other choices, recorded.

    choices = choose(batches, step)             operations on the device, then one read for all batches
    for choice in choices: choice.record()      Python numbers only

A choice names its tensors, and finds the numbers under the same names after the read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from decoding import LogitsProcessorConfig, Sampler, Sampling, has_reference_scores
from decoding.engine import TRACE_FIELDS, LoopStep, StepBatch, StepTrace, step_traces, trace_numbers, trace_tensors
from decoding.engine.decoding_step import (
    NEG_INF,
    combine_together,
    fault_message,
    joined,
    unusable_message,
    zero_unusable_rows,
)
from decoding.engine.hypotheses import AnswerBeams, Hypothesis, append_token, ends_with_stop_string
from icl import Tensor, copied_to_device, read_together, transformers

Rows = list[list[float]]
"""The rows of a tensor [B, K] on the host."""


class StepChoice:
    """What a batch chooses at a step. The base of `TokenChoice` and `BeamChoice`.

    Attributes:
        batch: Chooses.
        step: The step.
        number: Number of the chosen token, from 0.
        best: The best combined score of each row, [B].
        tokens: Chosen tokens on the device, [B] int64, or None if the host chooses.
        scores: Combined scores after the logits processors, [B, V].
        tensors: What the host reads, name -> [B, K].
        numbers: What it has read, name -> rows.
    """

    def __init__(self, batch: StepBatch, step: LoopStep, combined: tuple[Tensor, Tensor, Tensor]) -> None:
        """combined: of `combine_branches_on_device`."""
        self.batch, self.step, self.number = batch, step, step.of(batch.group)
        self.tokens: Tensor | None = None
        self.scores, is_faulty, self.best = combined
        self.tensors: dict[str, Tensor] = {"is_faulty": is_faulty[:, None]}
        self.numbers: dict[str, Rows] = {}
        if batch.is_decided is not None:
            self.tensors["is_decided"] = batch.is_decided[:, None]

    def process(self, scores: Tensor) -> Tensor:
        """The scores after the logits processors of the group, [B, V]."""
        if self.batch.group.processors is None:
            return scores
        scores, self.tensors["best"] = apply_processors(self.batch.group.processors, scores, self.batch.hypotheses)
        return scores

    def trace_steps(self) -> None:
        """Adds what the step traces need, if a hypothesis keeps some."""
        top, batch = max(h.top_logprobs for h in self.batch.hypotheses), self.batch
        if top:
            tensors = trace_tensors(
                batch.strategy, batch.logits, self.scores, step=self.number, states=batch.hypotheses, top=top
            )
            self.tensors |= {f"step_traces/{i}": tensor for i, tensor in enumerate(tensors)}

    def step_trace_rows(self) -> list[Rows]:
        """What `step_traces` reads, empty without step traces."""
        return [rows for name, rows in self.numbers.items() if name.startswith("step_traces/")]

    def is_decided(self, row: int) -> bool:
        """Whether the choice of the row counts."""
        return "is_decided" not in self.numbers or bool(self.numbers["is_decided"][row][0])

    def fault(self, row: int) -> str:
        """Why the scores of a row cannot be used, or ''. Reads the device again only if they cannot."""
        if self.numbers["is_faulty"][row][0]:
            return fault_message(self.batch.strategy, self.number, self.best, self.batch.logits, row)
        if "best" not in self.numbers:
            return ""
        (best,) = self.numbers["best"][row]
        return unusable_message(best, f"step {self.number}: the scores after the logits processors")

    def record(self) -> None:
        """Writes the choice into the hypotheses."""
        raise NotImplementedError


class TokenChoice(StepChoice):
    """One token for each hypothesis of a batch, chosen by the group's sampler."""

    def __init__(self, batch: StepBatch, step: LoopStep, combined: tuple[Tensor, Tensor, Tensor]) -> None:
        super().__init__(batch, step, combined)
        self.scores = self.process(self.scores)
        thinking = [(i, h.thinking) for i, h in enumerate(batch.hypotheses) if h.thinking is not None]
        self.forced = {i: one.forced[0] for i, one in thinking if one.forced}
        self.trace_steps()

    def uniform_numbers(self) -> Tensor:
        """The uniform number of each row, [B, 1]."""
        running = self.batch.group.hypotheses
        left, keys = max(h.max_new_tokens - len(h.tokens) for h in running), [h.key for h in self.batch.hypotheses]
        numbers = self.batch.group.uniform_numbers
        return numbers.at(self.number, keys, [h.key for h in running], left, self.step.indices)

    def take(self, tokens: Tensor) -> None:
        """Takes the sampled tokens [B], except where another one is forced."""
        for i, token in self.forced.items():
            tokens[i] = token
        self.tokens = tokens
        self.tensors["tokens"] = tokens[:, None]

    def record(self) -> None:
        group, hypotheses = self.batch.group, self.batch.hypotheses
        tokens = [int(token) for (token,) in self.numbers["tokens"]]
        rows = self.step_trace_rows()
        traces = step_traces(self.batch.strategy, len(self.batch.logits), rows, tokens) if rows else []
        decided = [i for i in range(len(hypotheses)) if self.is_decided(i)]
        for i in decided:
            hypothesis, fault = hypotheses[i], self.fault(i)
            if fault:
                hypothesis.finish, hypothesis.fault = "fault", fault
            else:
                self._record_trace(i)
                if hypothesis.top_logprobs:
                    hypothesis.step_traces.append(traces[i].with_top(hypothesis.top_logprobs))
            is_forced = hypothesis.take_forced() is not None
            append_token(hypothesis, tokens[i], self.step.stop_tokens, is_forced=is_forced)
        if group.stop_criterion is not None:
            candidates = [h for h in (hypotheses[i] for i in decided) if _may_stop(h)]
            ends = ends_with_stop_string(group.stop_criterion, candidates)
            for hypothesis, is_end in zip(candidates, ends, strict=True):
                hypothesis.finish = "stop" if is_end else hypothesis.finish

    def _record_trace(self, row: int) -> None:
        if "trace" in self.numbers:
            hypothesis, numbers = self.batch.hypotheses[row], self.numbers["trace"][row]
            if row in self.forced:
                numbers[TRACE_FIELDS.index("logprob")] = 0.0
            hypothesis.trace.append(numbers)
            is_undecided = numbers[0] > 1 and not hypothesis.lacks_branch_rows and not self.batch.is_outside
            hypothesis.undecided_steps += is_undecided


def choose(batches: Sequence[StepBatch], step: LoopStep) -> list[StepChoice]:
    """The choices of all batches at a step, after one read."""
    together = [(one.strategy, one.logits, step.of(one.group), one.hypotheses) for one in batches]
    choices: list[StepChoice] = [
        (BeamChoice if batch.group.search else TokenChoice)(batch, step, combined)
        for batch, combined in zip(batches, combine_together(together, step.indices), strict=True)
    ]
    _sample(choices)
    _read(choices)
    return choices


def _sample(choices: Sequence[StepChoice]) -> None:
    """Samples the tokens of all choices of single tokens, at once where the sampler and the number are equal."""
    by_sampler: dict[tuple[Sampler, int], list[TokenChoice]] = {}
    for choice in choices:
        if isinstance(choice, TokenChoice):
            by_sampler.setdefault((choice.batch.group.sampler, choice.number), []).append(choice)
    for (sampler, number), own in by_sampler.items():
        scores = joined([one.scores for one in own])
        if isinstance(sampler, Sampling) and not sampler.deterministic:
            tokens = sampler.invert(scores, joined([one.uniform_numbers() for one in own]))
        else:
            tokens = sampler.choose(scores, [h.key for one in own for h in one.batch.hypotheses], number)
        for one, part in zip(own, torch.split(tokens, [len(one.scores) for one in own]), strict=True):
            one.take(part)


def _read(choices: Sequence[StepChoice]) -> None:
    """Copies the tensors of all choices to the host. The host waits for the device here, and nowhere else in a step.

    The traces of all choices of single tokens are one set of operations: each works on rows alone.
    """
    traced = {
        one: (one.scores, one.scores if _are_reference(one.batch) else one.batch.logits[0], one.tokens)
        for one in choices
        if one.tokens is not None and one.step.trace
    }
    if traced:
        first, *others = traced.values()
        numbers = trace_numbers(*(map(joined, zip(first, *others, strict=True)) if others else first))
        for one, own in zip(traced, torch.split(numbers, [len(one.scores) for one in traced]), strict=True):
            one.tensors["trace"] = own
    read = iter(read_together([tensor for choice in choices for tensor in choice.tensors.values()]))
    for choice in choices:
        choice.numbers = {name: next(read) for name in choice.tensors}


def _are_reference(batch: StepBatch) -> bool:  # whether scores are the logits of branch 0
    return batch.group.processors is None and has_reference_scores(batch.strategy)


def decided_hypotheses(choices: Sequence[StepChoice]) -> Iterator[Hypothesis]:
    """The hypotheses with a decided choice."""
    return (h for choice in choices for i, h in enumerate(choice.batch.hypotheses) if choice.is_decided(i))


def _may_stop(hypothesis: Hypothesis) -> bool:
    """Whether a stop string can end the answer here."""
    is_running = hypothesis.finish in ("", "length") and bool(hypothesis.tokens)
    return is_running and (hypothesis.thinking is None or hypothesis.thinking.is_answering)


# Beam search on combined scores: finds an answer that is likely as a whole.
#
# A beam is a hypothesis of the token loop with rows of its own; beams with equal tokens share rows. At each step the
# combined scores are log-softmaxed again, because the constant of a contrast differs from beam to beam, and added up.
# Of the best candidates (twice as many as beams), those that end are finished answers. Their score is the sum over
# their length to the power of the length penalty. The best of the others continue. The search ends when no running
# beam, at its present length, is better than the worst of as many finished answers. One beam is greedy decoding. The
# rules follow transformers' `generate(num_beams=...)`.


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


class BeamChoice(StepChoice):
    """The best candidates of each answer. The host selects which of them end and which continue."""

    def __init__(self, batch: StepBatch, step: LoopStep, combined: tuple[Tensor, Tensor, Tensor]) -> None:
        """Computes the candidates on the device. batch: all running beams of a group."""
        super().__init__(batch, step, combined)
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
        if step.trace:  # a token has the log-probability of its candidate
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


# Logits processors of transformers (repetition penalty, no-repeat n-gram, ...) on combined scores.
#
# The processors act after mask and combination and before the sampler, as in `generate`: on raw scores in greedy
# decoding and sampling, on log-probabilities in beam search. They read the tokens of the reference prompt and of the
# answer.


def build_processors(configs: Sequence[LogitsProcessorConfig]) -> Any:
    """`transformers.LogitsProcessorList` of the configs, or None if there are none."""
    if not configs:
        return None
    return transformers.LogitsProcessorList([config.build() for config in configs])


def apply_processors(processors: Any, scores: Tensor, hypotheses: Sequence["Hypothesis"]) -> tuple[Tensor, Tensor]:
    """Processed scores of a step.

    Each row is processed alone, because prompts differ in length and padding would count as tokens.

    Args:
        processors: A `LogitsProcessorList`.
        scores: Combined scores, [B, V].
        hypotheses: Hypothesis of each row.

    Returns:
        Scores [B, V], zeros in rows without a usable one, and the best scores [B, 1] for `unusable_message`.
    """
    ids = [(*hypothesis.prompt_ids, *hypothesis.tokens) for hypothesis in hypotheses]
    flat = copied_to_device([token for row in ids for token in row], torch.long, scores.device)
    token_ids = torch.split(flat, [len(row) for row in ids])
    rows = [processors(own[None], row[None].clone())[0] for own, row in zip(token_ids, scores, strict=True)]
    return zero_unusable_rows(torch.stack(rows))
