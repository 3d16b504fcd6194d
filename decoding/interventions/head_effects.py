"""Attention heads that carry a task: their mean inputs, what they add to the stream, and their effect on the answer.

    a_lh     mean over sources of head h's part of the input of layer l's output projection, at the last token  [e]
    c_lh     W_l (a_lh in the slice of h, zero elsewhere): what the head adds, without the bias                 [d]
    AIE_lh   mean over prompts with shuffled answers of p(y | a_lh put in) - p(y), y the first answer token

The last is the average indirect effect of Todd et al. (arXiv 2310.15213). All edits are at the end of a prompt, so the
rows of all heads share everything before it, and each costs one token.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from decoding.interventions.edits import HeadEdit
from decoding.interventions.fit_data import DevPrompt, FitData
from icl.errors import ModelError
from icl.models.interventions import Site, steer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from icl.models.hf.model import HF

MAX_EFFECT_PROMPTS = 25
"""Prompts that effects are averaged over, as in the paper."""


def head_sites(model: "HF") -> tuple[Site, ...]:
    """The sites of all layers with heads. Raises ModelError if there are none."""
    sites = model.sites.all("heads")
    if not sites:
        raise ModelError("this model has no attention heads whose inputs could be replaced.")
    return sites


def mean_head_inputs(data: FitData) -> "dict[str, Tensor]":
    """'few_shot', 'zero_shot' and 'shuffled' -> [layers with heads, H, e]."""
    return data.mean_states(head_sites(data.model))


def head_contributions(model: "HF", inputs: "Tensor") -> "Tensor":
    """What each head adds to the stream: [layers with heads, H, e] -> [layers with heads, H, d].

    The projection itself runs, so adapters and quantized weights count. Its bias, which belongs to no head, is removed.
    """
    import torch

    layers = [site.layer for site in head_sites(model)]
    rows = []
    for layer, own in zip(layers, inputs, strict=True):
        projection = model.sites.projection(layer)
        assert projection is not None
        weight = next(projection.parameters())
        single = torch.diag_embed(own.T).permute(1, 2, 0).reshape(len(own), -1)  # row h: head h, zero elsewhere
        with torch.no_grad():
            batch = torch.cat([single, torch.zeros_like(single[:1])])[None].to(weight.device, _dtype(model))
            added = projection(batch)[0].float().cpu()
        rows.append(added[:-1] - added[-1])
    return torch.stack(rows)


def head_effects(data: FitData, inputs: "Tensor", prompts: Sequence[DevPrompt]) -> "Tensor":
    """AIE of each head: [layers with heads, H].

    Args:
        data: The dev split.
        inputs: Mean head inputs [layers with heads, H, e].
        prompts: Prompts, whose answers are shuffled.
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
        for base in [one.with_shuffled_answers]
        for prompt in (base, *(steer(base, edit) for edit in edits))
    ]
    answers = [one.answers[0] for one in chosen for _ in range(len(edits) + 1)]
    probabilities = data.first_token_logprobs(steered, answers).exp().view(len(chosen), len(edits) + 1)
    effects: Tensor = (probabilities[:, 1:] - probabilities[:, :1]).mean(0).view(len(layers), -1)
    return effects


def strongest(effects: "Tensor", count: int) -> list[tuple[int, int]]:
    """(index of the layer, head) of the heads with the largest effects, the strongest first."""
    order = effects.flatten().argsort(descending=True, stable=True)[:count].tolist()
    return [divmod(place, effects.shape[1]) for place in order]


def summed(contributions: "Tensor", heads: Sequence[tuple[int, int]]) -> "Tensor":
    """The sum of what some heads add [d], in an order of its own: contributions [layers with heads, H, d]."""
    import torch

    return torch.stack([contributions[i, head] for i, head in sorted(heads)]).sum(0)


def random_heads(shape: Sequence[int], count: int, seed: int) -> list[tuple[int, int]]:
    """(index of the layer, head) of as many random heads."""
    import torch

    order = torch.randperm(shape[0] * shape[1], generator=torch.Generator().manual_seed(seed))[:count].tolist()
    return [divmod(place, shape[1]) for place in order]


def head_edit(
    layers: Sequence[int], inputs: "Tensor", heads: Sequence[tuple[int, int]], strength: float = 1.0, **more: object
) -> HeadEdit:
    """The intervention that puts mean inputs into some heads.

    Args:
        layers: Layers with heads.
        inputs: [layers with heads, H, e].
        heads: (index of the layer, head).
        strength: Share of the edit.
        more: `where` of the edit.
    """
    own: dict[int, list[int]] = {}
    for i, head in sorted(heads):
        own.setdefault(i, []).append(head)
    return HeadEdit(
        {layers[i]: tuple(numbers) for i, numbers in own.items()},
        {layers[i]: inputs[i, numbers] for i, numbers in own.items()},
        strength,
        **more,  # type: ignore[arg-type]
    )


def _dtype(model: "HF") -> "torch.dtype":
    """The type of the model's states."""
    return model.engine.runner.dtype
