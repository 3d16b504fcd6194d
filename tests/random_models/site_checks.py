"""Checks of a model's sites: every edit arrives where it should, for its own rows only, in every way of reading.

identity   a state replaced by itself changes no bit
moves      an edit at a site moves the logits (a hook that the class ignores would not)
mixed      rows with different interventions in one batch equal each row alone
shared     rows on a shared beginning equal each row alone
steps      a row that reads its answer token by token equals one that reads it at once
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.models.interventions import Site, Where

if TYPE_CHECKING:
    from torch import Tensor

    from icl.models.hf.model import HF
    from icl.types import Prompt


CLOSE = 2e-5
"""Largest difference of logits between two ways of computing the same, as a share of their standard deviation."""

KINDS = ("input", "residual", "attention", "middle", "mlp_input", "mlp", "heads", "scores")
"""Kinds of sites in the decoder that the checks hold for."""


@dataclass(frozen=True)
class RandomEdit:
    """An intervention that adds a fixed random vector times a scale. A scale of 0 returns a copy of the states.

    Scores are multiplied instead, by one number for each head, because a sum would not change their softmax.
    """

    sites: tuple[Site, ...]
    where: Where = Where()  # noqa: RUF009 frozen
    scale: float = 1.0
    neutral: bool = False

    @property
    def digest(self) -> str:
        return repr(self)

    def edit(self, site: Site, x: "Tensor", rows: Sequence[int]) -> "Tensor":
        import torch

        if not self.scale:
            return x.clone()
        if site.kind == "scores":
            draw = torch.rand(x.shape[1], 1, generator=torch.Generator().manual_seed(site.layer))
            return x * (1 + self.scale * (1 + draw)).to(x.device)
        noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(site.layer + len(site.kind)))
        return x + self.scale * noise.to(x.device)


def check_sites(model: "HF", prompts: "Sequence[Prompt]", kinds: Sequence[str] = KINDS) -> Iterator[str]:
    """What is wrong at the model's sites. Nothing, if all is right.

    Args:
        model: A loaded model.
        prompts: At least two prompts; sharing is tested if they have a common beginning.
        kinds: Kinds of sites.
    """
    import torch

    base = _opened_afresh(model, prompts, [None] * len(prompts))
    spread = _spread(base)
    for kind in kinds:
        sites = model.sites.all(kind)
        for where in (Where(), Where("all"), Where(part="both")):
            neutral = [RandomEdit(sites, where, 0.0)] * len(prompts)
            if sites and not torch.equal(_opened_afresh(model, prompts, neutral), base):
                yield f"{kind}, {where}: states replaced by themselves change the logits"
        for site in sites:
            moved = _opened(model, prompts, [RandomEdit((site,))] * len(prompts))
            if float((moved - base).abs().amax(-1).min() / spread) < 100 * CLOSE:
                yield f"{site}: an edit does not move the logits"
        if sites:
            edits = [RandomEdit(sites[-1:], scale=1.0 + i) if i % 2 == 0 else None for i in range(len(prompts))]
            edits[-1] = RandomEdit(sites, Where("all"), 0.5)
            mixed = _opened(model, prompts, edits)
            alone = torch.cat([_opened_afresh(model, [p], [e]) for p, e in zip(prompts, edits, strict=True)])
            gap = float((mixed - alone).abs().max() / spread)
            if not gap < CLOSE:
                yield f"{kind}: rows in one batch differ from each row alone by {gap:.1e}"
            yield from _check_steps(model, prompts, RandomEdit(sites[-1:], Where(part="both")))


def _check_steps(model: "HF", prompts: "Sequence[Prompt]", edit: RandomEdit) -> Iterator[str]:
    gaps = _step_gaps(model, prompts, edit)
    if all(gap < CLOSE for gap in gaps):
        return
    # Gemma 3n enlarges rounding more than CLOSE allows, and does so without an edit too.
    for gap, unedited, what in zip(gaps, _step_gaps(model, prompts, None), _STEP_GAPS, strict=True):
        if not gap < max(CLOSE, min(2 * unedited, 10 * CLOSE)):
            yield f"{edit.sites[0]}: {what}"


_STEP_GAPS = ("two steps differ from one chunk", "scores of an option differ from those of steps")


def _step_gaps(model: "HF", prompts: "Sequence[Prompt]", edit: RandomEdit | None) -> tuple[float, float]:
    """How much two steps differ from one chunk, and from scores of an option, in standard deviations of the logits."""
    rows = model.open(prompts, interventions=[edit] * len(prompts))
    other = rows.take(_range(len(prompts)))
    scores = rows.suffix_logprobs([[[3, 4, 5]]] * len(prompts))
    spread = _spread(rows.logits)
    for token in (3, 4):
        other.advance(_range(len(prompts)) * 0 + token)
    rows.extend([[3, 4]] * len(prompts))
    expected = other.logits.log_softmax(-1)
    gaps = [float((own[0][2] - row).abs().max() / spread) for own, row in zip(scores, expected, strict=True)]
    return float((rows.logits - other.logits).abs().max() / spread), max(gaps)


def _opened(model: "HF", prompts: "Sequence[Prompt]", edits: "Sequence[RandomEdit | None]") -> "Tensor":
    return model.open(prompts, interventions=edits).logits


def _opened_afresh(model: "HF", prompts: "Sequence[Prompt]", edits: "Sequence[RandomEdit | None]") -> "Tensor":
    """The logits without the prefixes that earlier calls left prefilled.

    A prompt continues such a prefix, but not if it is edited there. Then the same tokens are read in other chunks, and
    logits differ by rounding.
    """
    model.engine.prefiller.cached_prefixes.clear()
    return _opened(model, prompts, edits)


def _spread(logits: "Tensor") -> "Tensor":
    """The standard deviation of the logits, without tokens that the class rules out (Chameleon's image tokens)."""
    return logits[logits > -1e30].std()


def _range(size: int) -> "Tensor":
    import torch

    return torch.arange(size)
