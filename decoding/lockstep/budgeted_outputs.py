"""The thinking budget inside an engine, with the state machine of the token loop (`decoding.engine.thinking_budget`).

A worker reads the chosen tokens of such a group one step later, when they have arrived on the host, and so waits for no
step that still runs. It puts the end marker of a reasoning block in their place, and a stop token after the last token
of the answer. The front end reads the output in the same way. So a token
that is not the forced one is noticed, and the surplus stop token is removed.

vLLM's own `thinking_token_budget` cannot give the same outputs: its markers belong to the engine, and reasoning and
answer share one length limit.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from decoding.engine import Hypothesis, Thinking, append_token
from icl.text.reasoning_blocks import opened_block

if TYPE_CHECKING:
    from decoding.lockstep.request_metadata import ThinkingLimits

TokenizerLoader = Callable[[], Any]
"""Returns the `transformers` tokenizer of the model."""

NOT_FORCED = "the engine did not force the end marker of a reasoning block at its thinking budget"
STOPPED_IN_MARKER = (
    "the end marker of its reasoning block contains a stop token, at which vLLM ends the answer. Remove "
    "max_thinking_tokens, or use the model 'hf'"
)


@dataclass
class BudgetedOutput:
    """The output of one group under a thinking budget, as a worker follows it.

    Attributes:
        chosen: The token of each step.
        hypothesis: The state after `chosen`, None before the first step.
    """

    chosen: list[int] = field(default_factory=list)
    hypothesis: Hypothesis | None = None

    def demand(self, step: int, limits: "ThinkingLimits", load_tokenizer: TokenizerLoader) -> tuple[int, bool] | None:
        """The token that the budget demands at a step, and whether it belongs to an end marker. None: any token.

        It follows from the tokens before the step. A step may be computed again. The state is then computed again too.

        Args:
            step: Number of the step.
            limits: The budget.
            load_tokenizer: Called before the first step.
        """
        if len(self.chosen) < step:  # the record was dropped: the front end notices it
            return None
        del self.chosen[step:]
        if self.hypothesis is None or self.hypothesis.steps != step:
            self.hypothesis = empty_output(limits, load_tokenizer())
            read_tokens(self.hypothesis, self.chosen, limits.stop_tokens)
        thinking = self.hypothesis.thinking
        if thinking is not None and thinking.forced:
            return thinking.forced[0], True
        return (limits.stop_tokens[0], False) if self.hypothesis.finish and limits.stop_tokens else None

    def read(self, step: int, token: int, limits: "ThinkingLimits") -> None:
        """Reads the token of a step, after `demand` for this step."""
        if self.hypothesis is None or self.hypothesis.steps != step:
            return
        is_forced = self.hypothesis.take_forced() is not None
        append_token(self.hypothesis, token, frozenset(limits.stop_tokens), is_forced=is_forced)
        self.chosen.append(token)


def empty_output(limits: "ThinkingLimits", tokenizer: Any) -> Hypothesis:
    """The output of a group before its first token."""
    own = limits.own_markers
    thinking = Thinking(tokenizer, limits.max_thinking_tokens, opened_block(limits.opening, own), own=own)
    return Hypothesis([], limits.max_new_tokens, thinking=thinking)


def read_tokens(hypothesis: Hypothesis, tokens: Sequence[int], stop_tokens: Sequence[int] | Set[int]) -> str:
    """Reads the tokens of an engine into a hypothesis, up to the end of the answer.

    Returns:
        Why they are not an output of its thinking budget, '' if they are.
    """
    stops = frozenset(stop_tokens)
    for token in tokens:
        if hypothesis.finish:
            break
        forced = hypothesis.take_forced()
        if forced not in (None, token):
            return NOT_FORCED
        append_token(hypothesis, token, stops, is_forced=forced is not None)
    return STOPPED_IN_MARKER if tokens and tokens[-1] in stops and not hypothesis.finish else ""
