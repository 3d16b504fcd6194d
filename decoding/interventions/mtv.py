"""Multimodal task vectors: mean inputs of some attention heads, put in place of the query's own, or added to them.

Huang et al., Multimodal Task Vectors Enable Many-Shot Multimodal In-Context Learning, NeurIPS 2024 (arXiv 2406.15334).

    input of the output projection, heads of a mask, last token of the prompt and every generated token := a_lh
    how: add    the same inputs += a_lh - (mean input without demonstrations)

The mask is found in one of two ways:

    effect       heads in the order of their AIE (`head_effects`); the choice part decides how many
    reinforce    the paper's: Bernoulli logits from -1, Adam .1; each step takes one random prompt without
                 demonstrations and 32 masks; the loss of the first answer token is standardized in the step;
                 of 10 sampled masks, the one with the lowest such loss on the choice part

All heads replaced at once must fail: the query itself is then no longer read. The difference of means leaves the query
in the heads, and can be added to all.

Differs from the released code in `effect` is the default; `how: add`; the module runs, so that bias, adapters and
quantized weights count (the release multiplies by the weight alone); heads have their own width; every row is edited,
not the last one of a batch; the choice part shares no query with the sources; Idefics2's rule that drops p < .8 is
left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from decoding import Control, FitData, FittedMethod, FittedTensors, HeadEdit, How
from decoding.interventions.head_effects import (
    Base,
    Heads,
    chosen_heads,
    head_edit,
    head_effects,
    head_sites,
    leaves_others,
    mean_head_inputs,
    random_heads,
    reinforce,
    strongest,
)
from icl import PositiveInt, Tensor, Where, component, later_parameter, steer, torch

FINAL_MASKS, FIRST_LOGIT = 10, -1.0
"""Sampled masks at the end, and the first Bernoulli logit of every head."""

HEAD_COUNTS = (1, 3, 5, 10, 20, 40)
"""Numbers of heads that the search `effect` tries. All heads are measured too, and never chosen."""


@component("intervention", "mtv")
@dataclass(frozen=True)
class MTV(FittedMethod):
    """Mean head inputs of prompts with demonstrations; they replace the inputs of some heads.

    Controls: random inputs of equal norm, as many random heads among the others, sources with shuffled answers,
    sources without demonstrations, and all heads (`num_heads` of the model), which must fail.
    """

    search: Literal["effect", "reinforce"] = "effect"  # how heads are found
    num_heads: PositiveInt | None = None  # heads of the search `effect`; null: the number that the fit chose
    effects_on: Base = "shuffled"  # prompts of the effects: with shuffled answers, or without demonstrations
    steps: PositiveInt = 600  # steps of the search `reinforce`
    part: Literal["prompt", "both"] = "both"  # edit the prompt's last token, or also every generated token
    how: How | None = later_parameter(None)  # replace inputs, or add the mean difference; null: as it was fitted

    tensor: ClassVar[str] = "heads"
    available_controls: ClassVar[tuple[Control, ...]] = ("random", "random_heads", "shuffled", "zero_shot")

    def intervention(self) -> HeadEdit:
        layers, heads = [int(layer) for layer in self.file.parameters["layers"]], self._heads()
        if self.control == "random_heads":
            heads = random_heads(self.vectors.shape, heads, self.draw)
        how, vectors = self._how, self.vectors
        if how == "add" and self.control == "random":
            vectors = self.random_vectors(self.file.tensors["heads"] - self.file.tensors["heads.zero_shot"])
        elif how == "add":
            vectors = vectors - self.file.tensors["heads.zero_shot"]
        return head_edit(layers, vectors, heads, self.strength, where=Where(part=self.part), how=how)

    @property
    def _how(self) -> How:
        own: How = self.how or self.file.parameters.get("how", "replace")  # older files have no `how`
        return own

    def _heads(self) -> Heads:
        if self.file.parameters["search"] == "reinforce":
            return _as_heads(self.file.tensors["mask"])
        return chosen_heads(self.file.tensors["effects"], int(self.chosen("num_heads")))

    def offers(self, control: Control) -> bool:
        if control == "zero_shot" and self._how == "add":  # the difference of a mean to itself
            return False
        possible = control != "random_heads" or leaves_others(
            int(self.chosen("num_heads")), self.file.tensors["heads"].shape
        )
        return possible and super().offers(control)

    def fit(self, data: FitData) -> FittedTensors:
        means, layers = mean_head_inputs(data), [site.layer for site in head_sites(data.model)]
        inputs, where, how = means["few_shot"], Where(part=self.part), self.how or "replace"
        written = inputs - means["zero_shot"] if how == "add" else inputs
        tensors = {"heads": inputs} | {f"heads.{name}": own for name, own in means.items() if name != "few_shot"}
        if self.search == "reinforce":
            masks = sampled_masks(data, layers, written, self.steps, how)
            sampled = [head_edit(layers, written, mask, where=where, how=how) for mask in masks]
            losses = [_first_token_loss(data, edit) for edit in sampled]
            best = losses.index(min(losses))
            chosen = masks[best]
            tensors["mask"] = _as_mask(inputs, chosen)
            report = {
                **data.reference_accuracies(),
                **data.shuffle_report(),
                "accuracy": {f"{len(chosen)} heads": data.accuracies([(sampled[best],)])[0]},
                "loss": {str(i): loss for i, loss in enumerate(losses)},
            }
            parameters = {"search": "reinforce", "layers": layers, "num_heads": len(chosen), "how": how}
            return FittedTensors(tensors, parameters, report)
        ranked = head_effects(data, inputs, data.choice, self.effects_on)
        effects = tensors["effects"] = ranked.effects
        every = effects.numel()
        counts = ranked.candidates(HEAD_COUNTS if self.num_heads is None else [self.num_heads])
        tried = [*counts, every] if counts[-1] < every else counts
        edits = [(head_edit(layers, written, strongest(effects, count), where=where, how=how),) for count in tried]
        by_count = dict(zip(tried, data.accuracies(edits), strict=True))
        count = max(counts, key=lambda one: (by_count[one], -one))
        report = {
            **data.reference_accuracies(),
            **data.shuffle_report(),
            "accuracy": {f"{one} heads": score for one, score in by_count.items()},
            **ranked.report(),
        }
        parameters = {"search": "effect", "layers": layers, "num_heads": count, "how": how}
        return FittedTensors(tensors, parameters, report, ranked.warnings(self.num_heads))


def sampled_masks(
    data: FitData, layers: Sequence[int], inputs: Tensor, steps: int, how: How = "replace"
) -> list[Heads]:
    """Masks of the distribution that REINFORCE learned. Random numbers come from the seed of the data.

    Args:
        data: The dev split; its sources give the prompts of the steps.
        layers: Layers with heads.
        inputs: Mean head inputs [layers with heads, H, e], or their differences.
        steps: Number of steps.
        how: Whether the inputs replace the inputs of the heads or are added to them.
    """
    logits, log_sigmoid = torch.full(inputs.shape[:2], FIRST_LOGIT), torch.nn.functional.logsigmoid

    def sample(logits: Tensor, count: int, generator: "torch.Generator") -> Tensor:
        return torch.rand((count, *logits.shape), generator=generator) < logits.sigmoid()

    generator = reinforce(
        data,
        logits,
        steps,
        sample=sample,
        logprob=lambda logits, masks: (masks * log_sigmoid(logits) + ~masks * log_sigmoid(-logits)).sum((1, 2)),
        edit=lambda mask: head_edit(layers, inputs, _as_heads(mask), how=how),
    )
    return [_as_heads(mask) for mask in sample(logits, FINAL_MASKS, generator)]


def _first_token_loss(data: FitData, edit: HeadEdit) -> float:
    """The mean negative log-probability of the first answer token on the choice part, without demonstrations."""
    prompts = [steer(one.without_demonstrations, edit) for one in data.choice]
    return -float(data.first_token_logprobs(prompts, [one.answers[0] for one in data.choice]).mean())


def _as_heads(mask: Tensor) -> Heads:
    return [(int(i), int(head)) for i, head in mask.nonzero().tolist()]


def _as_mask(inputs: Tensor, heads: Heads) -> Tensor:
    mask = torch.zeros(inputs.shape[:2])
    for i, head in heads:
        mask[i, head] = 1
    return mask
