"""As few demonstrations as the answer needs: the smallest number of shots with a clear answer.

    c_k = log p(best | k shots) - log p(second | k shots)          of options, or of the first token
    c_k = log N - H(p(. | k shots))                                with `clear_by: entropy`; N options or tokens
    k* = the first k of `ladder` with c_k >= margin, else all demonstrations

The scores come from the prompt with k* shots; a generated answer keeps its k* after the first token. `icl fit` chooses
the margin on a dev split: the smallest one with the highest accuracy. It also stores how often each rung was taken
there. The control is `choice: random`: a rung drawn with these frequencies for each query, so that it reads as many
demonstrations. The whole prompt is branch 0, for traces and controls.

By entropy no answer is clearer than log N: with two options a margin above .69 takes all demonstrations.

No released code: this is not the method of a single paper. AdapShot (Ou et al. 2026) also chooses the number of shots
by the entropy of a probe's output; its rule and its code were not compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from decoding import Note, StatefulStrategy, StepState, Strategy, Traits, UnitSumStrategy
from decoding.prompt_edits import demonstrations, keep_demonstrations
from icl import (
    ConfigError,
    Count,
    Fraction,
    NonNegative,
    Prompt,
    Tensor,
    component,
    copied_to_device,
    later_parameter,
    torch,
)


def margins(logits: Tensor) -> Tensor:
    """Difference of the two best log-probabilities: [..., V] -> [...]."""
    best = logits.log_softmax(-1).topk(min(2, logits.shape[-1]), -1).values
    return best[..., 0] - best[..., -1]


def information(logits: Tensor) -> Tensor:
    """log N minus the entropy of the N tokens or options that are possible, in nats: [..., V] -> [...]."""
    entropy = torch.special.entr(logits.softmax(-1)).sum(-1)
    difference: Tensor = logits.isfinite().sum(-1).log() - entropy
    return difference


def first_clear(values: Tensor, margin: float) -> Tensor:
    """The first rung at or above the margin, else the last one: margins [rungs, B] -> [B] indices."""
    clear = values >= margin
    clear[-1] = True
    return clear.int().argmax(0)


@component("strategy", "adaptive_shots")
@dataclass(frozen=True)
class AdaptiveShots(UnitSumStrategy, StatefulStrategy):
    """The scores under the smallest number of demonstrations at which the best token or option is clear."""

    ladder: tuple[Count, ...] = (0, 1, 2, 4)  # numbers of shots to try before all of them, ascending
    margin: NonNegative = 1.0  # clarity at which an answer is clear, in nats; 0 takes the first rung
    near: Literal["last", "first"] = "last"  # demonstrations that few shots keep: the last or the first of the prompt
    choice: Literal["margin", "random"] = "margin"  # how a rung is chosen; random is the control
    shares: tuple[Fraction, ...] = ()  # frequency of each rung for `random`, all demonstrations last; none: equal

    needs_labels: ClassVar[bool] = True
    clear_by: Literal["margin", "entropy"] = later_parameter("margin")  # best against second, or all together

    def __post_init__(self) -> None:
        if list(self.ladder) != sorted(set(self.ladder)):
            raise ConfigError(f"ladder has ascending numbers of shots, each once, not {list(self.ladder)}.")
        if self.shares and len(self.shares) != len(self.ladder) + 1:
            raise ConfigError(f"shares has {len(self.shares)} numbers for the {len(self.ladder)} rungs and all shots.")

    @property
    def traits(self) -> Traits:
        return Traits(combines_options=True, keeps_state=True, draws_random_numbers=self.choice == "random")

    def clarity(self, logits: Tensor) -> Tensor:
        """How clear the answer is, in nats: [..., V] -> [...]."""
        return margins(logits) if self.clear_by == "margin" else information(logits)

    def calibration_strategies(self, shots: int) -> tuple[Strategy, ...]:
        """One strategy per rung that always takes it, then all demonstrations. Raises ConfigError at 0 shots."""
        if not shots:
            raise ConfigError("adaptive_shots chooses among demonstrations, but there are none at 0 shots.")
        count = len(self.ladder) + 1
        return tuple(
            replace(self, choice="random", shares=tuple(float(i == rung) for i in range(count)))
            for rung in range(count)
        )

    def fit(self, logprobs: Tensor, gold: Sequence[int]) -> "AdaptiveShots":
        """The smallest margin with the highest accuracy. logprobs: [queries, rungs, options]."""
        values, target = self.clarity(logprobs).T.contiguous(), torch.as_tensor(gold)
        right = (logprobs.argmax(-1) == target[:, None]).T
        candidates = [0.0, *sorted({float(value) for value in values[:-1].flatten()})]
        accuracies = [float(right.gather(0, first_clear(values, one)[None]).float().mean()) for one in candidates]
        margin = candidates[accuracies.index(max(accuracies))]
        rungs = first_clear(values, margin)
        shares = tuple(float((rungs == rung).float().mean()) for rung in range(len(values)))
        return replace(self, margin=margin, shares=shares)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        """The prompt, one prompt per rung, and the prompt again."""
        numbers = demonstrations(prompt)
        ordered = numbers[::-1] if self.near == "last" else numbers
        return prompt, *(keep_demonstrations(prompt, ordered[:k]) for k in self.ladder), prompt

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        rungs = logits[1:]
        if any(0 not in state.memory for state in states):  # later steps neither compute nor read margins
            by_margin = first_clear(self.clarity(rungs), self.margin).tolist()
            for state, rung in zip(states, by_margin, strict=True):
                if 0 not in state.memory:
                    state.memory[0] = rung if self.choice == "margin" else self._drawn_rung(state, len(rungs))
        chosen = copied_to_device([state.memory[0] for state in states], torch.long, logits.device)
        return rungs[chosen, torch.arange(len(states), device=logits.device)]

    def _drawn_rung(self, state: StepState, count: int) -> int:
        shares = self.shares or (1 / count,) * count
        return int(state.key.numpy("adaptive_shots").choice(count, p=[share / sum(shares) for share in shares]))
