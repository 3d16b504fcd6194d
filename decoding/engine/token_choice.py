"""The choice of tokens at a step: computed on the device, read by the host together with all other choices, recorded.

    choices = [TokenChoice(batch, step) for batch in batches]    operations on the device, no read
    read_choices(choices)                                        one read for all of them
    for choice in choices: choice.record()                       Python numbers only

A choice names its tensors, and finds the numbers under the same names after the read.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from decoding.engine.decoding_step import combine_branches_on_device, fault_message, unusable_message
from decoding.engine.hypotheses import Hypothesis, append_token
from decoding.engine.logits_processors import apply_processors
from decoding.engine.step_batch import LoopStep, StepBatch
from decoding.engine.stop_strings import ends_with_stop_string
from decoding.engine.trace import step_traces, trace_tensors
from decoding.engine.trace_numbers import TRACE_FIELDS, trace_numbers
from decoding.formulas.sampling import Sampling
from icl.memory.device_copies import read_together

if TYPE_CHECKING:
    from torch import Tensor

Rows = list[list[float]]
"""The rows of a tensor [B, K] on the host."""


class StepChoice:
    """What a batch chooses at a step. The base of `TokenChoice` and `decoding.engine.beam_search.BeamChoice`.

    Attributes:
        batch: Chooses.
        step: The step.
        tokens: Chosen tokens on the device, [B] int64, or None if the host chooses.
        scores: Combined scores, [B, V].
        tensors: What the host reads, name -> [B, K].
        numbers: What it has read, name -> rows.
    """

    def __init__(self, batch: StepBatch, step: LoopStep) -> None:
        self.batch, self.step = batch, step
        self.tokens: Tensor | None = None
        self.scores, _, faults = combine_branches_on_device(batch.strategy, batch.logits, step.number, batch.hypotheses)
        self.tensors: dict[str, Tensor] = {"faults": faults}
        self.numbers: dict[str, Rows] = {}
        if batch.is_decided is not None:
            self.tensors["is_decided"] = batch.is_decided[:, None]

    def process(self, scores: "Tensor") -> "Tensor":
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
                batch.strategy, batch.logits, self.scores, step=self.step.number, states=batch.hypotheses, top=top
            )
            self.tensors |= {f"step_traces/{i}": tensor for i, tensor in enumerate(tensors)}

    def step_trace_rows(self) -> list[Rows]:
        """What `step_traces` reads, empty without step traces."""
        return [rows for name, rows in self.numbers.items() if name.startswith("step_traces/")]

    def is_decided(self, row: int) -> bool:
        """Whether the choice of the row counts."""
        return "is_decided" not in self.numbers or bool(self.numbers["is_decided"][row][0])

    def fault(self, row: int) -> str:
        """Why the scores of a row cannot be used, or ''."""
        strategy, logits = self.batch.strategy, self.batch.logits
        message = fault_message(strategy, self.step.number, self.numbers["faults"][row], logits, row)
        if message or "best" not in self.numbers:
            return message
        (best,) = self.numbers["best"][row]
        return unusable_message(best, f"step {self.step.number}: the scores after the logits processors")

    def record(self) -> None:
        """Writes the choice into the hypotheses."""
        raise NotImplementedError


class TokenChoice(StepChoice):
    """One token for each hypothesis of a batch, chosen by the group's sampler."""

    def __init__(self, batch: StepBatch, step: LoopStep) -> None:
        super().__init__(batch, step)
        self.scores = self.process(self.scores)
        self.tokens = _sampled(batch, self.scores, step)
        thinking = [(i, h.thinking) for i, h in enumerate(batch.hypotheses) if h.thinking is not None]
        self.forced = {i: one.forced[0] for i, one in thinking if one.forced}
        for i, token in self.forced.items():
            self.tokens[i] = token
        self.tensors["tokens"] = self.tokens[:, None]
        if step.trace:
            self.tensors["trace"] = trace_numbers(self.scores, batch.logits[0], self.tokens)
        self.trace_steps()

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


def read_choices(choices: Sequence[StepChoice]) -> None:
    """Copies the tensors of all choices to the host. The host waits for the device here, and nowhere else in a step."""
    read = iter(read_together([tensor for choice in choices for tensor in choice.tensors.values()]))
    for choice in choices:
        choice.numbers = {name: next(read) for name in choice.tensors}


def decided_hypotheses(choices: Sequence[StepChoice]) -> Iterator[Hypothesis]:
    """The hypotheses whose choice counts."""
    return (h for choice in choices for i, h in enumerate(choice.batch.hypotheses) if choice.is_decided(i))


def _sampled(batch: StepBatch, scores: "Tensor", step: LoopStep) -> "Tensor":
    """The tokens that the sampler chooses, [B]."""
    sampler, keys = batch.group.sampler, [h.key for h in batch.hypotheses]
    if not isinstance(sampler, Sampling) or sampler.deterministic:
        return sampler.choose(scores, keys, step.number)
    running = batch.group.hypotheses
    left = max(h.max_new_tokens - len(h.tokens) for h in running)
    keys_of_group = [h.key for h in running]
    uniform = batch.group.uniform_numbers.at(step.number, keys, keys_of_group, left, step.indices)
    return sampler.invert(scores, uniform)


def _may_stop(hypothesis: Hypothesis) -> bool:
    """Whether a stop string can end the answer here."""
    is_running = hypothesis.finish in ("", "length") and bool(hypothesis.tokens)
    return is_running and (hypothesis.thinking is None or hypothesis.thinking.is_answering)
