"""Do answers of demonstrations collect information that the last token then reads? Saliency, and cuts by layer

Label words are anchors (Wang et al., EMNLP 2023, arXiv 2305.14160), with the parts of a prompt by their names:

    I         |sum over heads of A * dL/dA|, A: attention weights, L: -log p of the first token of the gold answer,
              among the first tokens of the options if these differ
    collect   mean I from tokens of answers to earlier tokens (S_wp), over the mean of all other pairs (S_ww)
    read      mean I from the last token to tokens of answers (S_pq), over the same
    cut       accuracy if the last token does not attend to answers in this layer (`intervene: knock_out`)
    others    accuracy if as many random other tokens are cut; uncut: without a cut
    effect    cut - others, in pairs, with an exact McNemar test
    n         prompts

`collect` in early layers and `read` in later ones is what the paper reports. In the last layer `collect` is 0 by
construction, because L reads no later state of an answer. Saliency is a first-order estimate, so the causal test is
`effect`. Accuracies are strict, of greedy answers.

The first 50 queries of each cell (`--queries`) are read: one forward and backward pass of a prompt, with layers x heads
x tokens x tokens x 4 bytes and a little more, and 1 + 2 x layers answers. A prompt that does not fit is an error.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from decoding import attention_problem, score_sites
from decoding.interventions.knock_out import KnockOut
from experiments import RunView, make_table, paired_columns
from experiments.analyses.run_prompts import QUERIES, RunPrompt, run_prompts
from icl import ConfigError, DataError, DataFrame, Example, Prompt, Tensor
from icl.metrics import is_accepted
from icl.models.hf.model import HF

ANSWERS = "demo_answers"


def analyze(view: RunView, queries: int = QUERIES) -> DataFrame:
    """One row per setting and layer. Raises PlanError, ConfigError or ModelError without readable attention."""
    arms = run_prompts(view, "interventions", queries)
    rows = [row for setting, prompts in arms for row in _rows(setting, prompts)]
    return make_table(
        rows,
        "Information flow through the answers",
        note="collect, read: saliency over that of other pairs; effect: answers cut less other tokens cut, in pairs",
        signed=("effect", "effect_low", "effect_high"),
        figure={
            "x": "layer",
            "y": ("effect",),
            "measure": "accuracy, answers cut less others cut",
            "n": "prompts",
        },
    )


def flow_means(saliency: Any, labels: Sequence[int], last: int) -> tuple[float, float, float]:
    """The means S_wp, S_pq and S_ww of a saliency [T, T] over pairs (i, j), j < i (equations 2 to 4 of the paper).

    Args:
        saliency: Of one layer.
        labels: Tokens of answers.
        last: The last token of the prompt.
    """
    pairs = np.tri(len(saliency), k=-1, dtype=bool)
    collect, read = np.zeros_like(pairs), np.zeros_like(pairs)
    collect[labels] = pairs[labels]
    read[last, labels] = True
    rest = pairs & ~collect & ~read
    means = (float(saliency[chosen].mean()) for chosen in (collect, read, rest))
    return cast("tuple[float, float, float]", tuple(means))


def gold_loss(model: HF, prompt: Prompt, example: Example, logits: Tensor) -> Tensor:
    """-log p of the first token of the gold answer, among the options' first tokens if these differ; a scalar."""
    gold = model.option_ids(prompt, [example.answers[0]])[0][0]
    first = [ids[0] for ids in model.option_ids(prompt, example.options)] if example.options else []
    among = first if gold in first and len(set(first)) == len(first) > 1 else []
    scores = logits[among].log_softmax(-1) if among else logits.log_softmax(-1)
    return -scores[among.index(gold) if among else gold]


def saliency_flows(model: HF, prompts: Sequence[RunPrompt]) -> dict[int, Any]:
    """Layer -> [prompts, 3], the means of `flow_means` of each prompt."""
    from icl.models.hf.gradients import attention_saliency

    flows: dict[int, list[tuple[float, float, float]]] = {}
    for one in prompts:
        prompt = model.before_answer(one.prompt)
        ranges = model.span_tokens([prompt], [ANSWERS])[0][ANSWERS]
        labels = [token for begin, end in ranges for token in range(begin, end)]
        loss = partial(gold_loss, model, prompt, one.item.example)
        for layer, saliency in attention_saliency(model, prompt, loss).items():
            flows.setdefault(layer, []).append(flow_means(saliency.double().numpy(), labels, len(saliency) - 1))
    return {layer: np.array(means) for layer, means in flows.items()}


def cut_accuracies(model: HF, prompts: Sequence[RunPrompt], layers: Sequence[int]) -> dict[str, Any]:
    """'uncut' -> [prompts] of 0 and 1; 'cut' and 'others' -> [layers, prompts].

    Raises:
        DataError: A prompt could not be answered.
    """
    from decoding import Arm, DecodingRequest, Failure, GreedyDecoding, run_requests

    cuts = [KnockOut(layers=(layer,), control=how) for how in ("none", "random_tokens") for layer in layers]
    requests = [
        DecodingRequest(one.prompt, Arm(GreedyDecoding()), max_new_tokens=one.cell.max_new_tokens, intervene=method)
        for method in (None, *cuts)
        for one in prompts
    ]
    right = []
    for i, result in enumerate(run_requests(model, requests, trace=False)):
        example = prompts[i % len(prompts)].item.example
        if isinstance(result, Failure):
            raise DataError(f"query '{example.id}': {result.reason}")
        right.append(float(is_accepted(result.text, example.answers)))
    scores = np.array(right).reshape(-1, len(prompts))
    return {"uncut": scores[0], "cut": scores[1 : 1 + len(layers)], "others": scores[1 + len(layers) :]}


def _rows(setting: Mapping[str, Any], prompts: Sequence[RunPrompt]) -> Iterator[dict[str, Any]]:
    model = cast("HF", prompts[0].cell.model)
    if problem := attention_problem(model):
        raise ConfigError(problem)
    layers = [site.layer for site in score_sites(model, 0, -1)]
    flows, scores = saliency_flows(model, prompts), cut_accuracies(model, prompts, layers)
    units = [one.unit for one in prompts]
    for number, layer in enumerate(layers):
        collect, read, rest = flows[layer].mean(0)
        cut, others = scores["cut"][number], scores["others"][number]
        yield {
            **setting,
            "layer": layer,
            "collect": collect / rest if rest else np.nan,
            "read": read / rest if rest else np.nan,
            "uncut": float(scores["uncut"].mean()),
            "cut": float(cut.mean()),
            "others": float(others.mean()),
            **paired_columns(others, cut, units, "effect"),
            "n": len(prompts),
        }
