"""The token loop: decodes many answers, of many strategies, over the rows of one session.

A `DecodingGroup` holds the hypotheses that one strategy and sampler decode in parallel. Each hypothesis has one row per
branch. All rows of the session go through one forward pass per step. Shapes are written with
`n` branches, `B` hypotheses and `V` tokens of the vocabulary.

    1. gather the logits of the branches of each group, [n, B, V]        _step_batches
    2. mask and combine them, apply logits processors                    decoding_step.combine_branches
    3. choose a token per hypothesis, record traces, end answers         _advance_hypotheses, or BeamSearch.step
    4. let every row read its token                                      _advance_session

Hypotheses that read the same prompt and chose the same tokens are in the same state, so they share a row. A row is
copied only when their tokens differ, and rows that no hypothesis needs are dropped. Below, `P` is the prompt, `N` the
prompt with a noised image, and letters are tokens:

    arm         branch       step 0    step 1    step 2
    greedy      reference    P         P a       P a b
    vcd         reference    P         P a       P a c     differs from greedy: the row was copied
                contrast     N         N a       N a c
    mask_only   reference    P         P a       P a c     shares the row of vcd
    rows of the session      2         2         3

A hypothesis may begin with the row of its reference alone. `decoding.engine.branch_scheduling` chooses when its
contrast branches are read:

    eager    from the start, as rows of the session
    lazy     from the first step that needs them, then as rows of the session
    gated    only at steps that need them, in a session of their own

The last two are drawn step by step in `decoding.engine.deferred_branches`.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from decoding.base import Strategy
from decoding.engine.decoding_step import combine_branches
from decoding.engine.deferred_branches import (
    DeferredBranches,
    OpenBranches,
    StepBatch,
    branch_rows,
    gather_logits,
)
from decoding.engine.logits_processors import apply_processors
from decoding.engine.stop_strings import StopCriterion, ends_with_stop_string
from decoding.engine.thinking_budget import Thinking
from decoding.engine.trace import StepTrace, trace_branches
from decoding.formulas.sampling import Sampler
from icl.models.base import Session
from icl.streams import StreamKey

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.engine.beam_search import BeamSearch

TRACE_FIELDS = ("plausible_tokens", "entropy", "changed", "logprob", "gap")
"""Numbers that are recorded for each step of an answer.

plausible_tokens: tokens that the mask keeps. entropy: of the combined distribution in nats, before temperature and cuts
of the sampler. changed: 1 if its best token is not that of the reference. logprob: log-probability of the chosen token,
0 for a forced one (`decoding.engine.thinking_budget`). gap: difference of the two best log-probabilities in nats, at
most MAX_GAP.
"""

MAX_GAP = 1000.0
"""Value of `gap` if the mask keeps a single token."""


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
        trace: TRACE_FIELDS of each step.
        memory: Values that the strategy stored, by step.
        top_logprobs: Tokens per branch that `step_traces` keep. 0 keeps no step traces.
        step_traces: Distributions of the branches at each step.
        prompts: Names of the branch prompts. If there are more prompts than rows, the session lacks the other rows.
        prompt_ids: Token ids of the reference prompt, if logits processors read them.
        undecided_steps: Traced steps with several plausible tokens, counted only once the session holds all branches.
        is_prefilled: Whether its contrast branches were prefilled inside the loop.
        branch_tokens: Answer tokens that each contrast branch has read.
        branch_forwards: Forward passes in which it read them.
        thinking: Its reasoning, if there is a thinking budget.
    """

    rows: list[int]
    max_new_tokens: int
    key: StreamKey = StreamKey()
    tokens: list[int] = field(default_factory=list)
    steps: int = 0
    finish: Literal["", "stop", "length", "fault"] = ""
    fault: str = ""
    trace: list[list[float]] = field(default_factory=list)
    memory: dict[int, int] = field(default_factory=dict)
    top_logprobs: int = 0
    step_traces: list[StepTrace] = field(default_factory=list)
    prompts: tuple[str, ...] = ()
    prompt_ids: tuple[int, ...] = ()
    undecided_steps: int = 0
    is_prefilled: bool = False
    branch_tokens: int = 0
    branch_forwards: int = 0
    thinking: Thinking | None = None

    def is_full(self) -> bool:
        """Whether the answer has reached its length limit. Reads the last token into the thinking budget."""
        if self.thinking is None:
            return len(self.tokens) >= self.max_new_tokens
        self.thinking.read(self.tokens)
        is_long = self.thinking.markers is None and self.thinking.num_answer_tokens >= self.max_new_tokens
        return is_long and not self.thinking.may_open(self.tokens)

    def take_forced(self) -> int | None:
        """Removes and returns the token that the thinking budget forces in this step, None if it forces none."""
        return self.thinking.forced.pop(0) if self.thinking is not None and self.thinking.forced else None

    @property
    def lacks_branch_rows(self) -> bool:
        """Whether the session holds the row of the reference only: before a lazy prefill, and always if gated."""
        return len(self.rows) < len(self.prompts)


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
    """

    strategy: Strategy
    sampler: Sampler
    hypotheses: list[Hypothesis]
    is_gated: bool = False
    search: "BeamSearch | None" = None
    processors: Any = None
    stop_criterion: StopCriterion | None = None


@dataclass
class LoopWork:
    """Work of one token loop.

    Attributes:
        forwards: Forward passes over all rows of the session.
        rows: Rows in those passes.
        rows_without_sharing: Rows that the passes would have had if no hypotheses shared a row.
        deferred_prefills: Contrast prompts prefilled inside the loop.
    """

    forwards: int = 0
    rows: int = 0
    rows_without_sharing: int = 0
    deferred_prefills: int = 0


def decode(
    session: Session,
    groups: Sequence[DecodingGroup],
    stop_tokens: frozenset[int],
    *,
    trace: bool = True,
    open_branches: OpenBranches | None = None,
) -> LoopWork:
    """Decodes every hypothesis to its end. The results are written into the hypotheses.

    Args:
        session: Prefilled rows. The loop uses them up.
        groups: Hypotheses whose `rows` are rows of the session.
        stop_tokens: Tokens that end an answer.
        trace: Whether to record TRACE_FIELDS.
        open_branches: Prefills prompts by name, for hypotheses that begin without the rows of their contrast branches.
    """
    work = LoopWork()
    running = [group for group in groups if group.hypotheses]
    deferred = None if open_branches is None else DeferredBranches(open_branches)
    step = 0
    while running:
        session, batches = _step_batches(session, running, deferred)
        for group, group_batches in zip(running, batches, strict=True):
            for hypotheses, branch_logits in group_batches:
                logits = _with_early_exits(session, group, hypotheses, branch_logits)
                if group.search is None:
                    _advance_hypotheses(group, hypotheses, logits, step=step, stop_tokens=stop_tokens, trace=trace)
                else:
                    group.hypotheses = group.search.step(
                        group, hypotheses, logits, step=step, stop_tokens=stop_tokens, trace=trace
                    )
            group.hypotheses = [h for h in group.hypotheses if not h.finish]
        running = [group for group in running if group.hypotheses]
        if running:
            session = _advance_session(session, running, work)
        step += 1
    work.deferred_prefills = 0 if deferred is None else deferred.num_prefilled
    return work


def _step_batches(
    session: Session, groups: Sequence[DecodingGroup], deferred: DeferredBranches | None
) -> tuple[Session, list[list[StepBatch]]]:
    """The session, with the rows of branches that this step needs, and the step batches of each group."""
    if deferred is not None and any(h.lacks_branch_rows for group in groups for h in group.hypotheses):
        return deferred.step_batches(session, groups)
    return session, [[(g.hypotheses, gather_logits(session.logits, branch_rows(g.hypotheses)))] for g in groups]


def _with_early_exits(
    session: Session, group: DecodingGroup, hypotheses: Sequence[Hypothesis], logits: "Tensor"
) -> "Tensor":
    """The logits of the branches, followed by those of the reference's early layers if the strategy reads them."""
    if not group.strategy.traits.reads_early_exits:
        return logits
    return torch.cat([logits, gather_early_exits(session, [h.rows[0] for h in hypotheses])])


def _advance_hypotheses(
    group: DecodingGroup,
    hypotheses: Sequence[Hypothesis],
    logits: "Tensor",
    *,
    step: int,
    stop_tokens: frozenset[int],
    trace: bool,
) -> None:
    """Combines the branches, chooses a token per hypothesis, records and ends answers. logits: [n, B, V]."""
    scores, faults = combine_branches(group.strategy, logits, step, hypotheses)
    if group.processors is not None:
        scores, processor_faults = apply_processors(group.processors, scores, step, hypotheses)
        faults = processor_faults | faults
    chosen = group.sampler.choose(scores, [h.key for h in hypotheses], step)
    forced = {i: token for i, h in enumerate(hypotheses) if (token := h.take_forced()) is not None}
    for i, token in forced.items():
        chosen[i] = token
    numbers = trace_step(scores, logits[0], chosen) if trace else []
    for i in forced if trace else ():
        numbers[i][TRACE_FIELDS.index("logprob")] = 0.0
    tokens: list[int] = chosen.tolist()
    top = max(h.top_logprobs for h in hypotheses)
    step_traces = (
        trace_branches(group.strategy, logits, scores, tokens, step=step, states=hypotheses, top=top) if top else []
    )
    for i, (hypothesis, token) in enumerate(zip(hypotheses, tokens, strict=True)):
        if i in faults:
            hypothesis.finish, hypothesis.fault = "fault", faults[i]
        else:
            if trace:
                hypothesis.trace.append(numbers[i])
                hypothesis.undecided_steps += not hypothesis.lacks_branch_rows and numbers[i][0] > 1
            if hypothesis.top_logprobs:
                hypothesis.step_traces.append(step_traces[i])
        append_token(hypothesis, token, stop_tokens, is_forced=i in forced)
    if group.stop_criterion is not None:
        stop_candidates = [
            h
            for h in hypotheses
            if h.finish in ("", "length") and h.tokens and (h.thinking is None or h.thinking.is_answering)
        ]
        ends = ends_with_stop_string(group.stop_criterion, stop_candidates)
        for hypothesis, is_end in zip(stop_candidates, ends, strict=True):
            hypothesis.finish = "stop" if is_end else hypothesis.finish


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


def gather_early_exits(session: Session, rows: Sequence[int]) -> "Tensor":
    """[early layers, rows, V] float32 logits of the rows, from a session that was opened with early exits."""
    exits = session.early_exit_logits
    selected: Tensor = exits[:, torch.tensor(list(rows), device=exits.device)]
    return selected.float()


def trace_step(scores: "Tensor", reference: "Tensor", chosen: "Tensor") -> list[list[float]]:
    """TRACE_FIELDS of a step for each hypothesis, copied to the CPU at once. For the arguments see `trace_numbers`."""
    numbers: list[list[float]] = trace_numbers(scores, reference, chosen).tolist()
    return numbers


def trace_numbers(scores: "Tensor", reference: "Tensor", chosen: "Tensor") -> "Tensor":
    """TRACE_FIELDS of a step for each hypothesis, [B, 5] float32.

    Args:
        scores: Combined scores, [B, V], -inf for tokens that are ruled out.
        reference: Logits of branch 0, [B, V].
        chosen: Chosen tokens, [B] int64.
    """
    plausible = (scores > -float("inf")).sum(-1)
    logprobs = scores.log_softmax(-1)
    entropy = torch.special.entr(logprobs.exp()).sum(-1)
    changed = scores.argmax(-1) != reference.argmax(-1)
    logprob = logprobs.gather(-1, chosen[:, None])[:, 0]
    best = logprobs.topk(min(2, logprobs.shape[-1])).values
    gap = (best[:, 0] - best[:, -1]).clamp(max=MAX_GAP)
    return torch.stack([plausible, entropy, changed, logprob, gap], 1)  # in the dtype of the scores


def _advance_session(session: Session, groups: Sequence[DecodingGroup], work: LoopWork) -> Session:
    """Feeds the last token of every hypothesis to its rows. Hypotheses with equal row and token share the new row."""
    row_tokens = sorted({(row, h.tokens[-1]) for group in groups for h in group.hypotheses for row in h.rows})
    new_row = {pair: i for i, pair in enumerate(row_tokens)}
    for group in groups:
        for hypothesis in group.hypotheses:
            hypothesis.rows = [new_row[row, hypothesis.tokens[-1]] for row in hypothesis.rows]
            if len(hypothesis.rows) > 1:
                hypothesis.branch_tokens += 1
                hypothesis.branch_forwards += 1
            work.rows_without_sharing += len(hypothesis.rows)
    old_rows = [row for row, _ in row_tokens]
    if old_rows != list(range(len(session))):
        session.retain(torch.tensor(old_rows, device=session.logits.device))
        session.trim()
    session.advance(torch.tensor([token for _, token in row_tokens], device=session.logits.device))
    work.forwards += 1
    work.rows += len(old_rows)
    return session
