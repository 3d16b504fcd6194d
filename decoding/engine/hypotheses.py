"""What the token loop decodes: hypotheses, the groups that choose their tokens together, and the work they cost."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from decoding.base import Note, Strategy
from decoding.engine.stop_strings import StopCriterion
from decoding.engine.thinking_budget import Thinking
from decoding.engine.trace import StepTrace
from decoding.formulas.sampling import Sampler, uniform_numbers
from icl.memory.device_copies import StepIndices, copied_to_device
from icl.memory.float_precision import wide_dtype
from icl.models.interventions import ActsIn, TokenPart
from icl.streams import StreamKey

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.engine.beam_search import BeamSearch


STEPS_AHEAD = 16
"""Steps whose numbers are drawn together. Drawing early changes no number: it depends on its query and step only."""


class UniformNumbers:
    """The uniform numbers of the hypotheses of a group. One block of steps is on the device."""

    def __init__(self) -> None:
        self.first_step = 0
        self.columns: dict[StreamKey, int] = {}
        self.block: Tensor | None = None  # [steps, columns], in `wide_dtype`

    def at(
        self, step: int, keys: Sequence[StreamKey], group_keys: Sequence[StreamKey], left: int, indices: StepIndices
    ) -> "Tensor":
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
        trace: `decoding.engine.trace_numbers.TRACE_FIELDS` of each step.
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
