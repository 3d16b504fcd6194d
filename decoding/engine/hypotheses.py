"""What the token loop decodes: hypotheses, the groups that choose their tokens together, and the work they cost.

If the strategy of a group acts in one part of the output, hypotheses outside that part choose in a batch of their own,
from the logits of branch 0. So the strategy never sees the steps outside. It needs no branches there.

An index on the device gathers the rows of a session. It is copied only if the rows have changed since the previous step
(`icl.memory.StepIndices`). Adjacent rows need no index.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from decoding import Note, PreparedRequest
from decoding.engine import TRACE_FIELDS, Detokenizer, StepTrace, Thinking, round_nats, serialize_step_traces
from decoding.formulas.sampling import Beam, Sampler, uniform_numbers
from icl import (
    Generation,
    LogitModel,
    Session,
    StepIndices,
    Strategy,
    StreamKey,
    Tensor,
    TokenPart,
    Usage,
    copied_to_device,
    split_reasoning,
    transformers,
    wide_dtype,
)
from icl.models.interventions import ActsIn

STEPS_AHEAD = 16
"""Steps per draw of numbers. Drawing early changes no number: each depends only on its query and step."""


class UniformNumbers:
    """The uniform numbers of the hypotheses of a group. One block of steps is on the device."""

    def __init__(self) -> None:
        self.first_step = 0
        self.columns: dict[StreamKey, int] = {}
        self.block: Tensor | None = None  # [steps, columns], in `wide_dtype`

    def at(
        self, step: int, keys: Sequence[StreamKey], group_keys: Sequence[StreamKey], left: int, indices: StepIndices
    ) -> Tensor:
        """The numbers of a step, [B, 1] in the widest type of the device.

        Args:
            step: Number of the token, from 0.
            keys: Random stream of each row.
            group_keys: Random streams of all hypotheses of the group.
            left: Tokens that the longest answer may still get.
            indices: Row numbers on the device.
        """
        if self.block is None or not self.first_step <= step < self.first_step + len(self.block):
            self.columns = {key: i for i, key in enumerate(dict.fromkeys([*group_keys, *keys]))}
            self.first_step, last = step, step + min(STEPS_AHEAD, max(1, left))
            numbers = [uniform_numbers(list(self.columns), one) for one in range(step, last)]
            self.block = copied_to_device(numbers, wide_dtype(indices.device), indices.device)
        row, columns = self.block[step - self.first_step], [self.columns[key] for key in keys]
        is_whole = columns == list(range(len(row)))
        return (row if is_whole else row.index_select(0, indices.of(columns)))[:, None]


@dataclass
class Hypothesis:
    """One answer that is being decoded.

    Attributes:
        rows: Rows of its branches in the session, the reference first.
        max_new_tokens: Length limit in tokens.
        key: Random stream of the query.
        tokens: Tokens chosen so far, without the one that ended the answer.
        steps: Number of steps, including the one that ended the answer.
        finish: Why it ended; '' while it runs.
        fault: Reason of a failure.
        trace: `decoding.engine.trace.TRACE_FIELDS` of each step.
        memory: Values that the strategy stored, by step.
        note: What the strategy prepared for the prompt.
        top_logprobs: Tokens per branch that `step_traces` keep. 0 keeps no step traces.
        step_traces: Distributions of the branches at each step.
        prompts: Names of the branch prompts. If there are more prompts than rows, the session lacks the other rows.
        prompt_ids: Token ids of the reference prompt, if logits processors read them.
        undecided_steps: Traced steps with several plausible tokens, counted only once the session holds all branches.
        is_prefilled: Whether its contrast branches were prefilled inside the loop.
        branch_tokens: Answer tokens that each contrast branch has read.
        branch_forwards: Forward passes in which it read them.
        thinking: Its reasoning, if there is a thinking budget.
        parts: The part of the output that each token leads on to, if an intervention of a branch acts in one part.
        searched_rows: Rows of the forward passes of `Strategy.search`. 0 without one.
    """

    rows: list[int]
    max_new_tokens: int
    key: StreamKey = StreamKey()
    tokens: list[int] = field(default_factory=list)
    steps: int = 0
    finish: Literal["", "stop", "length", "fault"] = ""
    fault: str = ""
    trace: list[list[float]] = field(default_factory=list)
    memory: dict[int, Any] = field(default_factory=dict)
    note: Note = None
    top_logprobs: int = 0
    step_traces: list[StepTrace] = field(default_factory=list)
    prompts: tuple[str, ...] = ()
    prompt_ids: tuple[int, ...] = ()
    undecided_steps: int = 0
    is_prefilled: bool = False
    branch_tokens: int = 0
    branch_forwards: int = 0
    thinking: Thinking | None = None
    parts: list[TokenPart] | None = None
    searched_rows: int = 0

    def is_full(self) -> bool:
        """Whether the answer has reached its length limit. Reads the last token into the thinking budget."""
        if self.thinking is None:
            if self.parts is not None:
                self.parts.append(TokenPart("answer"))
            return len(self.tokens) >= self.max_new_tokens
        self.thinking.read(self.tokens)
        if self.parts is not None:
            self.parts.append(self.thinking.part(self.tokens))
        is_long = self.thinking.markers is None and self.thinking.num_answer_tokens >= self.max_new_tokens
        return is_long and not self.thinking.may_open(self.tokens)

    @property
    def last_part(self) -> TokenPart:
        """The part of the output that the last token leads on to, if it matters."""
        return self.parts[-1] if self.parts else TokenPart()

    @property
    def next_part(self) -> str:
        """The part of the output that the next token belongs to, '' if it may still open a reasoning block.

        A closing marker and what is forced after it belong to the block, because no strategy chooses them.
        """
        if self.thinking is None:
            return "answer"
        return "think" if self.thinking.markers is not None else self.thinking.part(self.tokens).name

    def take_forced(self) -> int | None:
        """Removes and returns the token that the thinking budget forces in this step, None if it forces none."""
        return self.thinking.forced.pop(0) if self.thinking is not None and self.thinking.forced else None

    @property
    def lacks_branch_rows(self) -> bool:
        """Whether the session holds the row of the reference only: before a lazy prefill, and always if gated."""
        return len(self.rows) < len(self.prompts)


# Stop strings: texts that end an answer, found by `transformers.StopStringCriteria`.
#
# An answer ends with the token that completes a stop string. Its tokens include that token, as in `generate`; its
# text ends before the stop string. Only the answer is searched, not the prompt, and not a reasoning block under a
# thinking budget.


StopCriterion = Callable[[torch.Tensor, Any], torch.Tensor]
"""Token ids [B, L] and None -> [B] bool: whether each row ends with a stop string."""


@dataclass
class DecodingGroup:
    """Hypotheses of one strategy and sampler, all with the same number of branches.

    Attributes:
        strategy: Combines the logits of the branches.
        sampler: Chooses tokens from the combined scores.
        hypotheses: Hypotheses that are not finished.
        is_gated: Whether contrast branches are gated: read only at steps that need them.
        search: Beam search, if the sampler has several beams. Its beams are then the hypotheses.
        processors: `transformers.LogitsProcessorList` that acts on the combined scores, or None.
        stop_criterion: Finds stop strings, or None.
        acts_in: The part of an output in which the strategy chooses tokens. In the other part, branch 0 does.
        uniform_numbers: Random numbers of the sampler, drawn ahead.
        first_step: Step of the loop at which its hypotheses choose their first tokens.
    """

    strategy: Strategy
    sampler: Sampler
    hypotheses: list[Hypothesis]
    is_gated: bool = False
    search: "BeamSearch | None" = None
    processors: Any = None
    stop_criterion: StopCriterion | None = None
    acts_in: ActsIn = "both"
    uniform_numbers: UniformNumbers = field(default_factory=UniformNumbers)
    first_step: int = 0


@dataclass
class LoopWork:
    """Work of one token loop.

    Attributes:
        forwards: Forward passes over all rows of the session.
        rows: Rows in those passes that a hypothesis reads.
        rows_without_sharing: Rows that the passes would have had if no hypotheses shared a row.
        deferred_prefills: Contrast prompts prefilled inside the loop.
    """

    forwards: int = 0
    rows: int = 0
    rows_without_sharing: int = 0
    deferred_prefills: int = 0


def append_token(hypothesis: Hypothesis, token: int, stop_tokens: Set[int], *, is_forced: bool = False) -> None:
    """Counts a step, and adds its token or ends the answer."""
    hypothesis.steps += 1
    if hypothesis.finish:
        return
    if token in stop_tokens and not is_forced:
        hypothesis.finish = "stop"
        return
    hypothesis.tokens.append(token)
    if hypothesis.is_full():
        hypothesis.finish = "length"


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


def build_stop_criterion(model: LogitModel, stop_strings: Sequence[str]) -> StopCriterion | None:
    """The criterion for these stop strings, or None if there are none. Raises ModelError without a tokenizer."""
    if not stop_strings:
        return None
    criterion: StopCriterion = transformers.StopStringCriteria(model.tokenizer, list(stop_strings))
    return criterion


def ends_with_stop_string(criterion: StopCriterion, hypotheses: Sequence["Hypothesis"]) -> list[bool]:
    """Whether the tokens of each hypothesis end with a stop string. All must have as many tokens."""
    if not hypotheses:
        return []
    flags: list[bool] = criterion(torch.tensor([h.tokens for h in hypotheses]), None).tolist()
    return flags


def cut_at_stop_string(text: str, stop_strings: Sequence[str]) -> str:
    """The text before the first stop string in it."""
    ends = [place for stop in stop_strings if (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def cut_generation(generation: Generation, stop_strings: Sequence[str]) -> Generation:
    """The generation with its text cut at the first stop string. Its tokens and trace are unchanged.

    An engine that does not know stop strings decodes more tokens than needed; their text is cut here.
    """
    reasoning, answer = "", generation.text
    if generation.thinking:
        answer = split_reasoning(generation.text).answer
        reasoning = generation.text.removesuffix(answer)
    text = reasoning + cut_at_stop_string(answer, stop_strings)
    return generation if text == generation.text else replace(generation, text=text, finish="stop")


def text_generation(
    prepared: PreparedRequest,
    detokenizer: Detokenizer,
    tokens: Sequence[int],
    finish: Literal["stop", "length"],
    *,
    steps: int,
    numbers: Sequence[Sequence[float]] = (),
    step_traces: Sequence[StepTrace] = (),
    thinking: "Thinking | None" = None,
    forwards: int = 0,
) -> Generation:
    """A generated text.

    Args:
        prepared: The request.
        detokenizer: Decodes the tokens.
        tokens: Tokens of the answer, without the stop token.
        finish: Why the answer ended.
        steps: Number of chosen tokens, including the stop token.
        numbers: TRACE_FIELDS of each step.
        step_traces: Distributions of each step.
        thinking: Its reasoning, under a thinking budget.
        forwards: Rows of forward passes. 0: those of all branches and beams at each step.
    """
    forwards = forwards or steps * len(prepared.branches) * prepared.num_beams
    usage = Usage(sum(prepared.tokens), steps, forwards, 0 if thinking is None else thinking.num_tokens)
    columns = [tuple(round_nats(column)) for column in zip(*numbers, strict=True)]
    trace = dict(zip(TRACE_FIELDS, columns, strict=True)) if numbers else {}
    serialized = serialize_step_traces(step_traces, detokenizer.stop_tokens, detokenizer.text)
    generation = Generation(detokenizer.text(tokens), tuple(tokens), finish, usage, trace, steps=serialized)
    if thinking is not None:
        generation = replace(generation, text=thinking.text(detokenizer, tokens), thinking=thinking.end)
    return cut_generation(generation, prepared.request.stop_strings)


def option_generation(
    prepared: PreparedRequest, ids: Sequence[Sequence[int]], values: Sequence[float], masked: bool
) -> Generation:
    """The best option; the first of equally good ones.

    Args:
        prepared: The request.
        ids: Tokens of each option.
        values: Score of each option.
        masked: Whether the mask excludes every option.
    """
    options = prepared.request.options
    best = max(range(len(values)), key=values.__getitem__)
    usage = Usage(sum(prepared.tokens), sum(map(len, ids)), len(prepared.branches))
    scores = dict(zip(options, values, strict=True))
    return Generation(options[best], tuple(ids[best]), "stop", usage, option_scores=scores, masked=masked)


@dataclass(frozen=True, eq=False)
class LoopStep:
    """One step of the token loop.

    Attributes:
        number: Number of the step, from 0.
        indices: Row numbers on the device.
        stop_tokens: Tokens that end an answer.
        trace: Whether to record `decoding.engine.trace.TRACE_FIELDS`.
    """

    number: int
    indices: StepIndices
    stop_tokens: frozenset[int] = frozenset()
    trace: bool = False

    def of(self, group: DecodingGroup) -> int:
        """Number of the token that the hypotheses of a group choose, from 0."""
        return self.number - group.first_step


REFERENCE = Strategy()
"""Scores as branch 0 does."""


@dataclass(frozen=True, eq=False)
class StepBatch:
    """Some hypotheses of a group at one step.

    Attributes:
        group: Their group.
        hypotheses: B hypotheses.
        logits: Logits of their branches, [n, B, V] float32.
        is_decided: Whether the reference decides the step, [B] bool. The others choose in another batch. None: no other
            batch.
        is_outside: Whether they are outside the part of the output in which the strategy of the group acts.
    """

    group: DecodingGroup
    hypotheses: Sequence[Hypothesis]
    logits: Tensor
    is_decided: Tensor | None = None
    is_outside: bool = False

    @property
    def strategy(self) -> Strategy:
        """Combines the branches."""
        return REFERENCE if self.is_outside else self.group.strategy


def reference_batches(
    session: Session, groups: Sequence[DecodingGroup], indices: StepIndices, *, may_defer: bool
) -> list[StepBatch]:
    """The batches of all groups that the session's own rows allow.

    Args:
        session: The running session.
        groups: The groups.
        indices: Row numbers on the device.
        may_defer: Whether hypotheses can lack the rows of their contrast branches. The reference then stands in for
            them, and `is_decided` says where this is right.
    """
    parts: list[tuple[DecodingGroup, bool, bool, list[Hypothesis]]] = []
    for group in groups:
        for is_outside, hypotheses in _by_part(group):
            may_lack = may_defer and len(hypotheses[0].prompts) > 1  # one branch cannot be deferred
            for is_deferred in (False, True):
                own = [h for h in hypotheses if (may_lack and h.lacks_branch_rows) == is_deferred]
                parts += [(group, is_outside, is_deferred, own)] if own else []
    rows = [
        [[h.rows[0] for h in own]] * len(own[0].prompts) if is_deferred else branch_rows(own)
        for _, _, is_deferred, own in parts
    ]
    batches = []
    for (group, is_outside, is_deferred, own), logits in zip(
        parts, gather_logits(session.logits, rows, indices), strict=True
    ):
        is_decided = group.strategy.reference_decides(logits[0]) if is_deferred and not is_outside else None
        if is_decided is not None or is_outside or not is_deferred:
            batch = StepBatch(group, own, logits, is_decided, is_outside)
            batches.append(with_early_exits(session, batch, indices))
    return batches


def _by_part(group: DecodingGroup) -> list[tuple[bool, list[Hypothesis]]]:
    """The hypotheses inside and outside the part in which the strategy acts: whether outside, and at least one each."""
    if group.acts_in == "both":
        return [(False, list(group.hypotheses))]
    parts: dict[bool, list[Hypothesis]] = {}
    for hypothesis in group.hypotheses:
        parts.setdefault(hypothesis.next_part != group.acts_in, []).append(hypothesis)
    return list(parts.items())


def with_early_exits(session: Session, batch: StepBatch, indices: StepIndices) -> StepBatch:
    """The batch, with the logits of the reference's early layers at the end if its strategy reads them."""
    if not batch.group.strategy.traits.reads_early_exits:
        return batch
    exits = gather_early_exits(session, indices.of([h.rows[0] for h in batch.hypotheses]))
    return replace(batch, logits=torch.cat([batch.logits, exits]))


def branch_rows(hypotheses: Sequence[Hypothesis]) -> list[list[int]]:
    """[n][B] rows of hypotheses with equal numbers of branches."""
    return [[h.rows[b] for h in hypotheses] for b in range(len(hypotheses[0].rows))]


def gather_logits(logits: Tensor, parts: Sequence[list[list[int]]], indices: StepIndices) -> list[Tensor]:
    """Logits of rows: [R, V], and [n][B] row numbers of each part -> [n, B, V] float32 of each part."""
    sizes = [len(rows) * len(rows[0]) for rows in parts]
    selected = indices.select(logits, [row for rows in parts for branch in rows for row in branch]).float()
    return [
        own.view(len(rows), len(rows[0]), -1) for rows, own in zip(parts, torch.split(selected, sizes), strict=True)
    ]


def gather_early_exits(session: Session, rows: Tensor) -> Tensor:
    """[early layers, rows, V] float32 logits of rows [R] int64, from a session that was opened with early exits."""
    selected: Tensor = session.early_exit_logits.index_select(1, rows)
    return selected.float()
