"""Demonstrations in parallel: states of one-shot prompts are averaged and put into the prompt without demonstrations.

Zhang et al., Batch-ICL: Effective, Efficient, and Order-Agnostic In-Context Learning, ACL Findings 2024 (arXiv
2401.06469).

    s_i      state after attention, before the MLP, of layer l at the last two tokens of the i-th one-shot prompt
    zero-shot prompt: that state := mean over i of s_i

`groups: 1` reads all demonstrations in one prompt, so the state is the prompt's own: the upper bound of what a state of
this layer can carry. `state: residual` is the output of the layer, as in `task_vector`.

The order of the demonstrations changes no bit: the sum runs in the order of the prompts' digests. Models that run
attention and MLP on one input have no such state, and are refused. Choose the layer on a dev split, as an axis:
`grid: {intervene.layer: [0, 1, 2, 3]}`.

Differs from the released code in the summation order is fixed; the layer is the user's (a script of the release
chooses it on the test set); `groups`, `state`, `strength` and controls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from decoding import SteeringMethod, VectorEdit, random_of_equal_norm
from decoding.prompt_edits import demonstration_windows, demonstrations, remove_demonstrations, replace_answers
from icl import (
    Count,
    Intervention,
    PositiveInt,
    Prompt,
    Site,
    Tensor,
    Where,
    component,
    describe,
    later_parameter,
    steer,
    torch,
)
from icl.models.hf.model import HF


@component("intervention", "batch_icl")
@dataclass(frozen=True)
class BatchICL(SteeringMethod):
    """The mean state of one-shot prompts after attention, written into the prompt without demonstrations.

    The one-shot prompts use the cell's demonstrations, so shots must be above 0. Controls: a random state of
    equal norm, and shuffled answers.
    """

    layer: int | None = None  # layer whose state after attention is written; negative: from the top
    tokens: PositiveInt = 2  # last tokens that are written
    strength: float = 1.0  # share of the edit; 0 is off, and the prompt keeps its demonstrations
    control: Literal["none", "random", "shuffled"] = "none"  # a random state of equal norm, or shuffled answers
    draw: Count = 0  # number of the random draw of the control `random`
    groups: Count = later_parameter(0)  # prompts that the demonstrations are divided into; 0: one for each
    state: Literal["middle", "residual"] = later_parameter("middle")  # after attention, or the layer's output

    reads_demonstrations: ClassVar[bool] = True

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    def problem(self) -> str | None:
        if self.layer is None:
            return "'batch_icl' needs a layer, chosen on a dev split: {name: batch_icl, layer: 2}."
        return None

    @property
    def acts_on_output(self) -> bool:
        return self.tokens == 1  # no token before the last one is known to be it when it is read

    @property
    def min_shots(self) -> int:
        return 2 if self.control == "shuffled" else 1  # one answer has none to exchange with

    @property
    def config(self) -> dict[str, Any]:
        """Only the random control names its draw."""
        node: dict[str, Any] = describe(self)
        if self.control != "random":
            node.pop("draw")
        return node

    @property
    def site(self) -> Site:
        assert self.layer is not None
        return Site(self.state, self.layer)

    def check(self, model: HF) -> None:
        model.sites.resolve(self.site)

    def steered(self, prompts: Sequence[Prompt], model: HF) -> Sequence[Prompt]:
        self.check(model)
        windows = [self._source_prompts(prompt) for prompt in prompts]
        distinct = {one.digest: one for own in windows for one in own}
        where = Where(count=self.tokens)
        states = {
            digest: own[self.site] if own else None
            for digest, own in zip(distinct, model.observe(list(distinct.values()), [self.site], where), strict=True)
        }
        return [
            steer(remove_demonstrations(prompt), *self._edits([one.digest for one in own], states)) if own else prompt
            for prompt, own in zip(prompts, windows, strict=True)
        ]

    def controls(self) -> tuple[SteeringMethod, ...]:
        if self.control != "none":
            return ()
        return (replace(self, control="random"), replace(self, control="shuffled"))

    def _source_prompts(self, prompt: Prompt) -> list[Prompt]:
        """One prompt for each group of demonstrations, sorted by digest. Empty without demonstrations."""
        if not demonstrations(prompt):
            return []
        source = replace_answers(prompt, "shuffled") if self.control == "shuffled" else prompt
        return sorted(demonstration_windows(source, self.groups), key=lambda one: one.digest)

    def _edits(self, digests: Sequence[str], states: Mapping[str, Tensor | None]) -> list[Intervention]:
        """One edit for each of the last tokens, from the states of the source prompts by digest."""
        mean = torch.stack([one for one in (states[digest] for digest in digests) if one is not None]).mean(0)
        if self.control == "random":
            mean = random_of_equal_norm(mean, f"batch_icl {self.layer} {list(digests)} {self.draw}")
        return [
            VectorEdit({self.site: vector}, "replace", self.strength, Where(before=len(mean) - 1 - i))
            for i, vector in enumerate(mean)
        ]
