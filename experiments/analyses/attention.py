"""Where does the last token of the prompt look? Attention by span and layer, read from the run's model again

    attention  sum of the attention weights from the last token of the prompt to the tokens of the span, mean over
               heads, then over prompts. The spans of a layer sum to 1
    strongest  the head with the largest mean, and its mean
    tokens     share of the prompt's tokens that are in the span: what equal weights would give
    other      the instruction, and what the chat template writes

The model reads the prompts without interventions. Attention is no attribution: what a weight carries depends on the
values, so cut it (`intervene: knock_out`) before you conclude that it matters.

The prompts of the first 50 queries of each cell (`--queries`) are read once. Only scores of the last token are stored:
layers x heads x tokens x 4 bytes for each prompt of a batch of 8, never tokens x tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from decoding import attention_problem, score_sites
from experiments import RunView, interval_columns, make_table
from experiments.analyses.run_prompts import QUERIES, RunPrompt, run_prompts
from icl import ConfigError, DataFrame, Prompt
from icl.models.hf.model import HF

SPANS = ("demo_images", "demo_questions", "demo_answers", "query_images", "query_question")
OTHER = "other"
BATCH = 8
"""Prompts whose scores are stored at once."""


def analyze(view: RunView, queries: int = QUERIES) -> DataFrame:
    """One row per setting, layer and span. Raises PlanError, ConfigError or ModelError without readable attention."""
    arms = run_prompts(view, "interventions", queries, with_demos=False)
    rows = [row for setting, prompts in arms for row in _rows(setting, prompts)]
    return make_table(
        rows,
        "Attention of the last token of the prompt",
        note="attention: mean over heads and prompts, sums to 1 in a layer; tokens: share of the prompt; n: prompts",
        figure={"x": "layer", "y": ("attention",), "by": "span", "measure": "attention", "n": "prompts"},
    )


def attention_mass(weights: Any, owners: Any) -> Any:
    """Sums of weights by span: weights [H, T], owners [T] (index into SPANS, or len(SPANS)) -> [H, len(SPANS) + 1]."""
    return np.stack([weights[:, owners == span].sum(1) for span in range(len(SPANS) + 1)], 1)


def token_owners(ranges: Mapping[str, Sequence[tuple[int, int]]], length: int) -> Any:
    """The span of each token: [T], index into SPANS, or len(SPANS) for other tokens."""
    owners = np.full(length, len(SPANS))
    for number, span in enumerate(SPANS):
        for begin, end in ranges[span]:
            owners[begin:end] = number
    return owners


def layer_masses(model: HF, prompts: Sequence[Prompt]) -> "Iterator[tuple[dict[int, Any], Any]]":
    """For each prompt: layer -> mass [H, spans], and the share of its tokens in each span [spans].

    Raises:
        ConfigError: The model's implementation computes no scores.
        ModelError: No layer has scores.
    """
    if problem := attention_problem(model):
        raise ConfigError(problem)
    sites = score_sites(model, 0, -1)
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        ranges = model.span_tokens(batch, SPANS)
        for own, states in zip(ranges, model.observe(batch, sites), strict=True):
            scores = {site.layer: states[site][-1] for site in sites}  # [H, tokens of the longest prompt of the batch]
            length = max(int(one[0].isfinite().nonzero()[-1]) + 1 for one in scores.values())
            weights = {layer: one[:, :length].softmax(-1).double().numpy() for layer, one in scores.items()}
            owners = token_owners(own, length)
            shares = np.bincount(owners, minlength=len(SPANS) + 1) / len(owners)
            yield {layer: attention_mass(one, owners) for layer, one in weights.items()}, shares


def _rows(setting: Mapping[str, Any], prompts: Sequence[RunPrompt]) -> Iterator[dict[str, Any]]:
    model = cast("HF", prompts[0].cell.model)
    masses, shares = zip(*layer_masses(model, [one.prompt for one in prompts]), strict=True)
    units = [one.unit for one in prompts]
    for layer in masses[0]:
        own = np.stack([one[layer] for one in masses])  # [prompts, H, spans]
        for number, span in enumerate((*SPANS, OTHER)):
            heads = own[:, :, number].mean(0)
            yield {
                **setting,
                "layer": layer,
                "span": span,
                **interval_columns(own[:, :, number].mean(1), units, "attention"),
                "strongest": f"head {int(heads.argmax())}: {heads.max():.3f}",
                "tokens": float(np.mean([one[number] for one in shares])),
                "n": len(own),
            }
