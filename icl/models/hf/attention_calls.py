"""Calls of attention modules, routed through the registry of transformers (`AttentionInterface`).

An attention module asks the registry for the function that its config names. A `Route` gives one module a copy of its
config, which names `icl_scores`. That function calls the module's own implementation, then a handler. The config of the
model stays, so masks are made as before, and all other modules run as before.

    out    [R, W, H, v]     what the module's own implementation returns
    scores [n, m, H, S]     q k / sqrt(e) of some tokens, capped if the class caps it, -inf where the mask hides a key,
                            float32

Memory: the scores of the tokens that a handler asks for, four bytes each, whatever the length of the prompt.
"""

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from icl import transformers

NAME = "icl_scores"
"""Name of the registered function."""

IMPLEMENTATIONS = ("eager", "sdpa")
"""Implementations with masks that are read here. The others hide keys by lengths."""


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """What an attention module gives to the registry.

    Attributes:
        query: [R, H, W, e].
        key: [R, G, S, e]. H / G heads share a key.
        value: [R, G, S, v].
        mask: [R or 1, H or 1, W or 1, S or more], bool (True: not hidden) or added to the scores. None: causal.
        scaling: Factor of the products.
        is_causal: Whether no token reads later ones, where there is no mask.
        softcap: c if the products s are capped as c tanh(s / c), as in Gemma 2. None: they are not.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scaling: float
    is_causal: bool
    softcap: float | None = None

    def scores(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Scores of the tokens in columns [n, m] of rows [n]: [n, m, H, S] float32, -inf for hidden keys."""
        query = self.query[rows[:, None], :, columns].float()
        grouped = query.reshape(*columns.shape, self.key.shape[1], -1, query.shape[-1])
        scores = torch.einsum("nmghe,ngse->nmghs", grouped, self._rows(self.key, rows)).flatten(2, 3) * self.scaling
        if self.softcap is not None:
            scores = self.softcap * (scores / self.softcap).tanh()
        slots = self.key.shape[2]
        if self.mask is not None:
            whole = self.mask[..., :slots].expand(len(self.query), -1, self.query.shape[2], -1)
            mask = whole[rows[:, None], :, columns]
            if mask.dtype == torch.bool:
                return scores.masked_fill(~mask, -torch.inf)
            return (scores + mask.float()).masked_fill(mask <= torch.finfo(mask.dtype).min / 2, -torch.inf)
        if not self.is_causal or self.query.shape[2] == 1:
            return scores
        last = columns + (slots - self.query.shape[2])
        hidden = torch.arange(slots, device=last.device) > last[..., None]
        return scores.masked_fill(hidden[:, :, None], -torch.inf)

    def mixed(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Sums of values under weights [n, m, H, S] of rows [n]: [n, m, H, v] float32."""
        grouped = weights.reshape(*weights.shape[:2], self.value.shape[1], -1, weights.shape[-1])
        mixed: Tensor = torch.einsum("nmghs,ngsv->nmghv", grouped, self._rows(self.value, rows)).flatten(2, 3)
        return mixed

    def _rows(self, tensor: Tensor, rows: Tensor) -> Tensor:
        return (tensor if len(rows) == len(tensor) == 1 else tensor[rows]).float()


Handler = Callable[[AttentionCall, Tensor], Tensor]
"""Receives a call and the output [R, W, H, v] of the module's own implementation. Returns the output to go on with."""


class Route:
    """A handler of an attention module, until it is removed.

    Attributes:
        module: The attention module.
        config: Its own config.
        implementation: Its own implementation.
        handler: The handler.
    """

    def __init__(self, module: nn.Module, handler: Handler) -> None:
        """Routes the calls of a module. Raises ValueError if it does not use the registry, or hides keys by lengths."""
        implementation = own_implementation(module)
        if implementation is None:
            raise ValueError(f"{type(module).__name__} has no attention of the kinds {', '.join(IMPLEMENTATIONS)}")
        self.module, self.config = module, module.config
        self.implementation, self.handler = implementation, handler
        transformers.AttentionInterface.register(NAME, routed_attention)
        own = copy.copy(module.config)
        vars(own)["_attn_implementation_internal"] = NAME  # the setter would also write sub-configs
        module.config = own
        vars(module)[NAME] = self

    def remove(self) -> None:
        """Gives the module its own config back."""
        self.module.config = self.config
        vars(self.module).pop(NAME, None)


def own_implementation(module: nn.Module) -> Callable[..., Any] | None:
    """The function that the registry gives to an attention module, or None if it is of another kind."""
    name = getattr(getattr(module, "config", None), "_attn_implementation", None) or "eager"
    source = sys.modules[type(module).__module__]
    registry = getattr(source, "ALL_ATTENTION_FUNCTIONS", None)
    if registry is None or name not in IMPLEMENTATIONS:
        return None
    own: Callable[..., Any] | None = (
        getattr(source, "eager_attention_forward", None) if name == "eager" else registry[name]
    )
    return own


def routed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
) -> tuple[Tensor, None]:
    """The registered function: the module's own implementation, then its handler."""
    route: Route = vars(module)[NAME]
    output, *_ = route.implementation(module, query, key, value, attention_mask, **arguments)
    scaling, is_causal = arguments.get("scaling"), arguments.get("is_causal")
    call = AttentionCall(
        query,
        key,
        value,
        attention_mask,
        query.shape[-1] ** -0.5 if scaling is None else scaling,
        getattr(module, "is_causal", True) if is_causal is None else is_causal,
        arguments.get("softcap"),
    )
    return route.handler(call, output), None


def recomputed(call: AttentionCall) -> Tensor:
    """The output of a call from its scores alone, for all tokens: [R, W, H, v] float32."""
    rows = torch.arange(len(call.query), device=call.query.device)
    columns = torch.arange(call.query.shape[2], device=rows.device).expand(len(rows), -1)
    return call.mixed(call.scores(rows, columns).softmax(-1), rows)
