"""Saliency of attention: |sum over heads of A * dL/dA| in each layer.

One forward and one backward pass for each prompt. Attention is computed from its scores (`attention_calls`), so any
class with the site `scores` works, under any attention implementation. The graph has about four tensors of
heads x tokens x tokens x 4 bytes in each layer. Gradients of weights are reduced over heads as they arrive.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icl.models.hf.answer_loss import frozen
from icl.models.hf.attention_calls import AttentionCall, Route
from icl.types import Prompt

if TYPE_CHECKING:
    from icl.models.hf.model import HF


def attention_saliency(model: "HF", prompt: Prompt, loss: Callable[[Tensor], Tensor]) -> dict[int, Tensor]:
    """The saliency of each layer with scores.

    Args:
        model: The loaded model.
        prompt: A prompt without interventions.
        loss: A scalar of the logits [V] after the prompt.

    Returns:
        Layer -> [T, T] float32 on the host. Entry (i, j) is that of token i attending to token j, and 0 for i = j.

    Raises:
        ModelError: The prompt cannot be read.
    """
    runner, saliency = model.engine.runner, dict[int, Tensor]()

    def attend(layer: int, call: AttentionCall, output: Tensor) -> Tensor:
        rows = torch.zeros(1, dtype=torch.long, device=output.device)
        weights = call.scores(rows, torch.arange(output.shape[1], device=output.device)[None]).softmax(-1)
        if not weights.requires_grad:  # the first layer, because the weights of the model have no gradients
            weights.requires_grad_()
        values = weights.detach()

        def reduce(gradient: Tensor) -> None:
            products = (values * gradient)[0].sum(1).abs()
            saliency[layer] = products.fill_diagonal_(0).cpu()

        weights.register_hook(reduce)  # type: ignore[no-untyped-call]
        return call.mixed(weights, rows).to(output.dtype)

    arguments = runner.padded(model.engine.prompt_encoder.read([prompt]))
    routes: list[Route] = []
    with torch.enable_grad(), frozen(runner.model):
        try:
            for site in model.sites.all("scores"):
                routes.append(Route(model.sites.hookable(site).module, partial(attend, site.layer)))
            logits = runner.forward(**arguments, gradients=True)[0, -1].float()
        finally:
            for route in routes:
                route.remove()
        loss(logits).backward()  # type: ignore[no-untyped-call]
    return dict(sorted(saliency.items()))
