"""Attention heads that carry a task: their mean inputs, what they add to the stream, and their effect on the answer.

    a_lh     mean over sources of head h's part of the input of layer l's output projection, at the last token  [e]
    c_lh     W_l (a_lh in the slice of h, zero elsewhere): what the head adds, without the bias                 [d]
    AIE_lh   mean over base prompts of p(y | a_lh put in) - p(y), y the first answer token

The last is the average indirect effect of Todd et al. (arXiv 2310.15213); its base prompts have shuffled answers. Where
shuffled answers do not destroy the task, p(y) is near 1 and the effects are near their noise. Prompts without
demonstrations are the other base.

All edits are at the end of a prompt, so the rows of all heads share everything before it, and each costs one token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from decoding import DevPrompt, FitData, HeadEdit, How
from icl import END, ConfigError, DataError, ModelError, Site, Tensor, Where, steer, torch
from icl.models.hf.model import HF

MAX_EFFECT_PROMPTS = 25
"""Prompts that effects are averaged over, as in the paper."""

SAMPLES, RATE = 32, 0.1
"""Sampled edits of a step of REINFORCE, and Adam's rate."""

HIGH_BASE = 0.5
"""Mean probability of the answer on base prompts above which effects are doubtful."""

Base = Literal["shuffled", "zero_shot"]
"""Prompts that effects are measured on: with shuffled answers, or without demonstrations."""

Heads = list[tuple[int, int]]
"""(index of the layer, head)."""


@dataclass(frozen=True, eq=False)
class HeadEffects:
    """Effects of all heads on one kind of prompt.

    Attributes:
        effects: AIE [layers with heads, H].
        base: Kind of the prompts.
        base_probability: Mean probability of the first answer token on them, without an edit.
    """

    effects: Tensor
    base: Base
    base_probability: float

    @property
    def above_zero(self) -> int:
        """Number of heads with an effect above 0."""
        return int((self.effects > 0).sum())

    def candidates(self, counts: Sequence[int]) -> list[int]:
        """The counts of heads that may be chosen: at most the heads above 0. Raises DataError if there are none."""
        if not self.above_zero:
            raise DataError(
                f"no head raises the probability of the answer on prompts of effects_on: {self.base}, so none can be "
                f"chosen. Set effects_on: {'zero_shot' if self.base == 'shuffled' else 'shuffled'}."
            )
        return sorted({min(count, self.above_zero) for count in counts})

    def report(self) -> dict[str, object]:
        """The numbers for the file."""
        return {
            "effects_on": self.base,
            "base_probability": round(self.base_probability, 4),
            "heads_above_zero": self.above_zero,
            "heads": [[i, head, round(float(self.effects[i, head]), 4)] for i, head in strongest(self.effects, 10)],
        }

    def warnings(self, num_heads: int | None) -> tuple[str, ...]:
        """What makes a choice by these effects doubtful. num_heads: the number that the config names."""
        warnings = []
        if self.base_probability > HIGH_BASE:
            other = " Try effects_on: zero_shot." if self.base == "shuffled" else ""
            warnings.append(
                f"the answer has probability {self.base_probability:.2f} on prompts of effects_on: {self.base} "
                f"before any head is edited, so the effects that rank heads are near their noise.{other}"
            )
        if num_heads is not None and num_heads > self.above_zero:
            warnings.append(
                f"num_heads is {num_heads}, but only {self.above_zero} heads have an effect above 0. "
                "Only these are used."
            )
        return tuple(warnings)


def head_sites(model: HF) -> tuple[Site, ...]:
    """The sites of all layers with heads. Raises ModelError if there are none."""
    sites = model.sites.all("heads")
    if not sites:
        raise ModelError("this model has no attention heads whose inputs could be replaced.")
    return sites


def mean_head_inputs(data: FitData) -> dict[str, Tensor]:
    """'few_shot', 'zero_shot' and 'shuffled' -> [layers with heads, H, e]."""
    return data.mean_states(head_sites(data.model))


def head_contributions(model: HF, inputs: Tensor) -> Tensor:
    """What each head adds to the stream: [layers with heads, H, e] -> [layers with heads, H, d].

    The projection itself runs, so adapters and quantized weights count. Its bias, which belongs to no head, is removed.

    Raises:
        ModelError: The model normalizes or scales the block's output before it is added. A head alone then adds nothing
            that could be computed from its input.
    """
    layers = [site.layer for site in head_sites(model)]
    rows = []
    for layer, own in zip(layers, inputs, strict=True):
        projection = model.sites.projection(layer)
        assert projection is not None
        _check_adds_projection(model, layer)
        weight = next(projection.parameters())
        single = torch.diag_embed(own.T).permute(1, 2, 0).reshape(len(own), -1)  # row h: head h, zero elsewhere
        with torch.no_grad():
            batch = torch.cat([single, torch.zeros_like(single[:1])])[None].to(weight.device, model.engine.runner.dtype)
            added = projection(batch)[0].float().cpu()
        rows.append(added[:-1] - added[-1])
    return torch.stack(rows)


def head_effects(data: FitData, inputs: Tensor, prompts: Sequence[DevPrompt], base: Base = "shuffled") -> HeadEffects:
    """The average indirect effect of each head.

    Args:
        data: The dev split.
        inputs: Mean head inputs [layers with heads, H, e].
        prompts: Prompts that the base prompts are made of.
        base: Kind of the base prompts.
    """
    layers = [site.layer for site in head_sites(data.model)]
    edits = [
        HeadEdit({layer: (head,)}, {layer: inputs[i, head : head + 1]})
        for i, layer in enumerate(layers)
        for head in range(inputs.shape[1])
    ]
    chosen = [one for one in prompts[:MAX_EFFECT_PROMPTS] if one.answers]
    steered = [
        prompt
        for one in chosen
        for own in [one.with_shuffled_answers if base == "shuffled" else one.without_demonstrations]
        for prompt in (own, *(steer(own, edit) for edit in edits))
    ]
    answers = [one.answers[0] for one in chosen for _ in range(len(edits) + 1)]
    probabilities = data.first_token_logprobs(steered, answers).exp().view(len(chosen), len(edits) + 1)
    effects = (probabilities[:, 1:] - probabilities[:, :1]).mean(0).view(len(layers), -1)
    return HeadEffects(effects, base, float(probabilities[:, 0].mean()))


def strongest(effects: Tensor, count: int) -> Heads:
    """(index of the layer, head) of the heads with the largest effects, the strongest first."""
    order = effects.flatten().argsort(descending=True, stable=True)[:count].tolist()
    return [divmod(place, effects.shape[1]) for place in order]


def chosen_heads(effects: Tensor, count: int) -> Heads:
    """The `count` strongest heads, all with an effect above 0; or all heads of the model, as a control.

    Raises:
        ConfigError: Fewer heads have an effect above 0.
    """
    if count < effects.numel() and (above := int((effects > 0).sum())) < count:
        raise ConfigError(
            f"num_heads is {count}, but only {above} of {effects.numel()} heads have an effect above 0 in this file. "
            f"Set num_heads to at most {above}, or to {effects.numel()} for all heads."
        )
    return strongest(effects, count)


def summed(contributions: Tensor, heads: Sequence[tuple[int, int]]) -> Tensor:
    """The sum of what some heads add [d], in an order of its own: contributions [layers with heads, H, d]."""
    return torch.stack([contributions[i, head] for i, head in sorted(heads)]).sum(0)


def leaves_others(count: int, shape: Sequence[int]) -> bool:
    """Whether as many heads as were chosen are left: shape [layers with heads, H, ...]."""
    return 2 * count <= shape[0] * shape[1]


def random_heads(shape: Sequence[int], chosen: Heads, draw: int) -> Heads:
    """As many random heads as were chosen, all among the others.

    Args:
        shape: Layers with heads, and heads of a layer.
        chosen: The chosen heads.
        draw: Seed of the draw.

    Raises:
        ConfigError: Fewer heads are left.
    """
    others = [(i, head) for i in range(shape[0]) for head in range(shape[1]) if (i, head) not in set(chosen)]
    if len(others) < len(chosen):
        raise ConfigError(
            f"control random_heads needs as many other heads as were chosen ({len(chosen)}), and only {len(others)} "
            "are left. Choose fewer heads."
        )
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(draw))[: len(chosen)].tolist()
    return [others[place] for place in order]


def head_edit(
    layers: Sequence[int],
    inputs: Tensor,
    heads: Sequence[tuple[int, int]],
    strength: float = 1.0,
    *,
    where: Where = END,
    how: How = "replace",
) -> HeadEdit:
    """The intervention that puts mean inputs into some heads, or adds vectors to their inputs.

    Args:
        layers: Layers with heads.
        inputs: [layers with heads, H, e].
        heads: (index of the layer, head).
        strength: Share of the edit.
        where: The tokens.
        how: Whether `inputs` replace the inputs of the heads or are added to them.
    """
    own: dict[int, list[int]] = {}
    for i, head in sorted(heads):
        own.setdefault(i, []).append(head)
    return HeadEdit(
        {layers[i]: tuple(numbers) for i, numbers in own.items()},
        {layers[i]: inputs[i, numbers] for i, numbers in own.items()},
        strength,
        where,
        how,
    )


def reinforce(
    data: FitData,
    logits: Tensor,
    steps: int,
    *,
    sample: Callable[[Tensor, int, "torch.Generator"], Tensor],
    logprob: Callable[[Tensor, Tensor], Tensor],
    edit: Callable[[Tensor], HeadEdit],
) -> "torch.Generator":
    """Changes the logits of a distribution over edits by REINFORCE, in place.

    Each step takes one random prompt without demonstrations and `SAMPLES` sampled edits. The reward is minus the loss
    of the first answer token, standardized in the step.

    Args:
        data: The dev split; its sources give the prompts of the steps.
        logits: The logits, of any shape.
        steps: Number of steps of Adam.
        sample: Logits, a number n and a generator -> n samples [n, ...].
        logprob: Logits and samples -> their log-probabilities [n], with gradients.
        edit: A sample -> its intervention.

    Returns:
        The generator, which the seed of the data began.
    """
    generator = torch.Generator().manual_seed(data.seed)
    optimizer = torch.optim.Adam([logits.requires_grad_()], lr=RATE)
    for step in range(steps):
        one = data.sources[int(torch.randint(len(data.sources), (), generator=generator))]
        samples = sample(logits.detach(), SAMPLES, generator)
        prompts = [steer(one.without_demonstrations, edit(own)) for own in samples]
        losses = -data.first_token_logprobs(prompts, [one.answers[0]] * SAMPLES)
        advantage = (losses - losses.mean()) / losses.std().clamp(min=1e-6)
        with torch.enable_grad():
            (logits.grad,) = torch.autograd.grad((advantage * logprob(logits, samples)).mean(), logits)
        optimizer.step()
        data.on_progress("REINFORCE", step + 1, steps)
    logits.requires_grad_(False)
    return generator


def _check_adds_projection(model: HF, layer: int) -> None:
    """Raises ModelError if another module stands between attention and the stream."""
    sites = model.sites
    if Site("attention", layer) not in sites.all("attention"):
        raise ModelError(
            f"{sites.name}: what attention adds at layer {layer} was not recognized{sites.probe_error}, so the parts "
            "of its heads are unknown. Use mtv, which replaces the inputs of heads."
        )
    adds = sites.hookable(Site("attention", layer)).module
    if not any(one is sites.projection(layer) for one in adds.modules()):
        raise ModelError(
            f"{sites.name} normalizes what attention gives at layer {layer} ({type(adds).__name__}) before it is "
            "added, so the contribution of a head cannot be computed. Use mtv, which replaces the inputs of heads."
        )
