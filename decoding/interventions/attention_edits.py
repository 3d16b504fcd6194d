"""Edits of attention logits as pure tensor functions, the interventions that apply them, and the base of methods.

raised   s + alpha |s| + log f
cut      the lowest number, so that no weight remains
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from decoding import Copies, SteeringMethod, tensor_digest
from icl import (
    END,
    ConfigError,
    Keys,
    Model,
    Site,
    Tensor,
    Where,
    canonical_digest,
    describe,
    did_you_mean,
    np,
    spans,
    torch,
)
from icl.models.hf.model import HF

RandomTokens = Literal["none", "random_tokens"]
"""Controls of methods that edit scores."""

IMPLEMENTATIONS = ("auto", "sdpa", "eager")
"""Values of `attn_implementation` with scores that can be edited."""


def raised(scores: Tensor, alpha: float, log_factors: Tensor | None = None) -> Tensor:
    """Scores [n, H, keys] plus a share of their size, and the logarithm of a factor of each head [H or more]."""
    new = scores + alpha * scores.abs() if alpha else scores
    return new if log_factors is None else new + log_factors[: scores.shape[1], None]


def cut(scores: Tensor) -> Tensor:
    """Scores that give a key no weight."""
    return torch.full_like(scores, torch.finfo(scores.dtype).min)


Choice = Literal["least", "random"]
"""Which tokens stay to attend to: those with the least attention, or random ones."""

ROUNDING = 1e-3
"""Above the float32 error of share times number of keys, so that this error does not add a key when rounding up."""


def chosen_keys(order: Tensor, keys: Tensor, count: int | None, share: float) -> Tensor:
    """The keys of each row that stay.

    Args:
        order: [n, K]: the smallest numbers are taken.
        keys: Whether a key is a candidate [n, K].
        count: Number of keys that stay, or None.
        share: Share of a row's candidates that stay, rounded up, if `count` is None.

    Returns:
        Whether a key stays [n, K]. Of equal numbers the earlier key is taken.
    """
    ranks = order.masked_fill(~keys, torch.inf).argsort(dim=-1, stable=True).argsort(-1)
    if count is not None:
        return keys & (ranks < count)
    return keys & (ranks < share * keys.sum(-1, keepdim=True) - ROUNDING)


def random_order(x: Tensor) -> Tensor:
    """A random number for each key, which depends only on the key's position: scores [n, H, K] -> [n, K]."""
    numbers = torch.from_numpy(np.random.default_rng(0).random(x.shape[-1]))
    return numbers.to(x).expand(x.shape[0], -1)


@dataclass(frozen=True, eq=False)
class RaisedScores:
    """An intervention that raises the scores of some keys.

    Attributes:
        log_factors: Site -> logarithm of the factor of each head [H].
        alpha: Share of the size of a score that is added.
        keys: The keys.
        where: The tokens that attend.
    """

    log_factors: Mapping[Site, Tensor]
    alpha: float
    keys: Keys
    where: Where = END

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self.log_factors)

    @property
    def neutral(self) -> bool:
        return self.alpha == 0 and not any(bool(own.any()) for own in self.log_factors.values())

    @cached_property
    def digest(self) -> str:
        values = [(str(site), tensor_digest(own)) for site, own in sorted(self.log_factors.items())]
        return canonical_digest(["raised scores", values, self.alpha, repr(self.keys), repr(self.where)])[:32]

    @cached_property
    def _copies(self) -> Copies:
        return Copies(self.log_factors)

    def edit(self, site: Site, x: Tensor, rows: Sequence[int]) -> Tensor:
        return raised(x, self.alpha, self._copies.on(x.device, site))


@dataclass(frozen=True, eq=False)
class CutScores:
    """An intervention under which tokens no longer attend to some keys. A token keeps its own key.

    Attributes:
        sites: Where it acts.
        keys: The keys.
        where: The tokens that attend.
    """

    sites: tuple[Site, ...]
    keys: Keys
    where: Where = END

    @property
    def neutral(self) -> bool:
        return not self.sites

    @cached_property
    def digest(self) -> str:
        return canonical_digest(["cut scores", sorted(map(str, self.sites)), repr(self.keys), repr(self.where)])[:32]

    def edit(self, site: Site, x: Tensor, rows: Sequence[int]) -> Tensor:
        return cut(x)


class ScoreMethod(SteeringMethod):
    """Base of methods that edit the scores of some keys, with random other tokens in place of the keys as control.

    Attributes:
        keys: Groups or names of parts.
        control: `random_tokens`: as many random other tokens.
        draw: Number of the random draw of the control.
    """

    keys: tuple[str, ...]
    control: RandomTokens
    draw: int

    def edited_keys(self, own: bool = True) -> Keys:
        """The keys, or the control's. own: whether a token's own key is among them."""
        return Keys(self.keys, own, self.draw if self.control == "random_tokens" else None)

    @property
    def config(self) -> dict[str, Any]:
        """Only the control names its draw."""
        node: dict[str, Any] = describe(self)
        if self.control == "none":
            node.pop("draw")
        return node

    def controls(self) -> tuple[SteeringMethod, ...]:
        if self.control != "none":
            return ()
        control: Any = self
        return (replace(control, control="random_tokens"),)

    @property
    def revision(self) -> int:
        return 2 if names_images(self.keys) else super().revision

    def model_problem(self, model: Model) -> str | None:
        return attention_problem(model, self.keys) or super().model_problem(model)


def score_sites(model: HF, first: int, last: int) -> tuple[Site, ...]:
    """The sites of scores from one layer to another, both included; negative: from the top.

    Layers without scores, such as linear attention, are left out. Raises ModelError if none is left.
    """
    count = len(model.sites.layers)
    low, high = (layer + count if layer < 0 else layer for layer in (first, last))
    sites = tuple(site for site in model.sites.all("scores") if low <= site.layer <= high)
    return sites or (model.sites.resolve(Site("scores", first)),)


def attention_problem(model: Model, names: Sequence[str] = ()) -> str | None:
    """Why attention logits of a model cannot be edited, before it is loaded. None if they can.

    Args:
        model: The model.
        names: Groups or parts of prompts. Their tokens must be known.
    """
    own = getattr(model, "attn_implementation", "auto")
    if own in IMPLEMENTATIONS:
        return model.image_token_problem if names_images(names) else None
    return f"attn_implementation: {own} computes no scores that could be edited. Use sdpa or eager."


def names_images(names: Sequence[str]) -> bool:
    """Whether some of the groups or parts are images. Marker tokens around images counted in revision 1 of methods."""
    return any((spans.group_of(name) or name).endswith("images") for name in names)


def check_span_names(key: str, names: Sequence[str], extra: Sequence[str] = ()) -> None:
    """Raises ConfigError for a name that is neither a group nor a part of a prompt, nor one of `extra`."""
    for name in names:
        if name not in (*spans.GROUPS, *extra) and not spans.is_span_name(name):
            raise ConfigError(
                f"{key}: '{name}' names no part of a prompt.{did_you_mean(name, (*spans.GROUPS, *extra))} Use "
                f"{', '.join((*extra, *spans.GROUPS))}, or a name such as demo[0].answer."
            )
