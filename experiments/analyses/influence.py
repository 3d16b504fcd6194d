"""How much does each demonstration change the answer's probability? Leave one out, and replace one by a random one

    gold      log p(gold answer | all demonstrations) - log p(gold answer | without this one): positive if it helps
    answer    the same for the model's own answer in the run, if that is not under an intervention
    replaced  log p(gold answer | all) - log p(gold answer | a random example of the pool in its place): what this
              demonstration gives beyond any other. Not for arms with transforms, and not if the pool has no other one
    n         demonstrations

In nats over all tokens of an answer. Rows: every demonstration; by place in the prompt; by whether its answer is the
query's gold answer; and by similarity, the nearer and the farther half of each prompt, if the retriever has scores. The
model reads 2 k + 1 prompts for a sample with k demonstrations, k + 1 more if its answer is not the gold answer, on the
first 50 queries of each cell (`--queries`).

The influence of a demonstration is measured given all others, so each of two equal demonstrations has no influence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments import RunView, interval_columns, make_table, prefixed_interval
from experiments.analyses.run_prompts import QUERIES, QUERY_ANSWER, RunPrompt, run_prompts, with_answer
from icl import DataFrame, Demo, Example, Prompt, StreamKey, normalize_text
from retrievers import EXCLUDE_LEAKS

BATCH = 32
"""Prompts that are scored in one call."""


@dataclass(frozen=True)
class Influence:
    """What one demonstration of a prompt changes, in nats; NaN if it was not measured.

    Attributes:
        place: Its place in the prompt, from 0.
        score: Its similarity to the query.
        is_gold: Whether its answer is the query's gold answer.
        unit: The cluster of the sample.
    """

    place: int
    score: float
    is_gold: bool
    unit: Any
    gold: float
    answer: float
    replaced: float


def analyze(view: RunView, queries: int = QUERIES) -> DataFrame:
    """Rows of demonstrations for each setting. Raises PlanError if the model scores no texts."""
    table_rows: list[dict[str, Any]] = []
    for setting, prompts in run_prompts(view, "text_logprobs", queries):
        samples = [influences(one) for one in prompts]
        for name, chosen in _groups(samples):
            units = [one.unit for one in chosen]
            table_rows.append(
                {
                    **setting,
                    "demonstrations": name,
                    **interval_columns([one.gold for one in chosen], units, "gold", bounded=False),
                    **_measured(chosen, "answer"),
                    **_measured(chosen, "replaced"),
                    "n": len(chosen),
                }
            )
    signed = tuple(f"{name}{end}" for name in ("gold", "answer", "replaced") for end in ("", "_low", "_high"))
    return make_table(
        table_rows,
        "Influence of single demonstrations",
        note="in nats: positive if the demonstration makes the answer more probable",
        signed=(*signed, "low", "high"),
        missing=f"{view.path}: no prompt has demonstrations whose influence could be measured.",
        figure={
            "x": "demonstrations",
            "y": ("gold", "replaced"),
            "measure": "change of log p, nats",
            "n": "demonstrations",
        },
    )


def influences(one: RunPrompt) -> list[Influence]:
    """The influence of each demonstration of a prompt. Raises ModelError, ImageError."""
    context, example = one.item.context, one.item.example
    demos, gold = context.demos, example.answer
    own = {normalize_text(answer) for answer in example.answers}
    output = one.output.strip() if one.cell.steering is None else ""
    same = normalize_text(output) in own
    without = [_composed(one, demos[:place] + demos[place + 1 :]) for place in range(len(demos))]
    candidates = _candidates(one)
    others = [_replaced(one, place, candidates) for place in range(len(demos))]
    random_prompts = [prompt for prompt in others if prompt is not None]
    whole, *rest = _log_likelihoods(one, [one.prompt, *without, *random_prompts], gold)
    by_random = iter(rest[len(demos) :])
    replaced = [np.nan if prompt is None else whole - next(by_random) for prompt in others]
    answered = [whole, *rest[: len(demos)]]
    if not same:
        answered = _log_likelihoods(one, [one.prompt, *without], output) if output else [np.nan] * (1 + len(demos))
    return [
        Influence(
            place,
            demo.score,
            normalize_text(demo.example.answer) in own,
            one.unit,
            gold=whole - rest[place],
            answer=answered[0] - answered[1 + place],
            replaced=replaced[place],
        )
        for place, demo in enumerate(demos)
    ]


def _composed(one: RunPrompt, demos: Sequence[Demo]) -> Prompt:
    return one.cell.composer.compose(replace(one.item.context, demos=tuple(demos)))


def _candidates(one: RunPrompt) -> list[Example]:
    """The other examples of the pool that may be demonstrations. Empty if transforms would change them."""
    if one.cell.transforms:
        return []
    context, pool = one.item.context, one.cell.task.pool(one.item.example.id)
    used = {demo.example.id for demo in context.demos}
    allowed = EXCLUDE_LEAKS.allowed_for(context.query)
    return [member for member in pool.examples if member.id not in used and allowed(member)]


def _replaced(one: RunPrompt, place: int, candidates: Sequence[Example]) -> Prompt | None:
    """The prompt with a random candidate in one place. None without one."""
    if not candidates:
        return None
    context = one.item.context
    key = StreamKey(one.cell.seed, context.query.id)
    other = candidates[int(key.numpy(f"influence/{place}").integers(len(candidates)))]
    demos = list(context.demos)
    demos[place] = replace(demos[place], example=other)
    return _composed(one, demos)


def _log_likelihoods(one: RunPrompt, prompts: Sequence[Prompt], answer: str) -> list[float]:
    """log p(answer) after each prompt, summed over the answer's tokens."""
    model: Any = one.cell.model
    scored: list[float] = []
    for start in range(0, len(prompts), BATCH):
        batch = [with_answer(prompt, answer) for prompt in prompts[start : start + BATCH]]
        scored += [float(np.sum(tokens)) for tokens in model.text_logprobs(batch, QUERY_ANSWER)]
    return scored


def _groups(samples: Sequence[Sequence[Influence]]) -> Iterator[tuple[str, list[Influence]]]:
    """(name, demonstrations) of each row of a setting."""
    every = [one for sample in samples for one in sample]
    halves = [_halves(sample) for sample in samples]
    places = sorted({one.place for one in every})
    groups = {
        "any": every,
        **{f"place {place + 1}": [one for one in every if one.place == place] for place in places},
        "gold answer": [one for one in every if one.is_gold],
        "another answer": [one for one in every if not one.is_gold],
        "nearer half": [one for near, _ in halves for one in near],
        "farther half": [one for _, far in halves for one in far],
    }
    return ((name, chosen) for name, chosen in groups.items() if chosen)


def _halves(sample: Sequence[Influence]) -> tuple[Sequence[Influence], Sequence[Influence]]:
    """The demonstrations with the larger and with the smaller similarities; none if all are equal."""
    if len({one.score for one in sample}) < 2:
        return (), ()
    ranked = sorted(sample, key=lambda one: -one.score)
    return ranked[: len(ranked) // 2], ranked[(len(ranked) + 1) // 2 :]


def _measured(chosen: Sequence[Influence], name: str) -> dict[str, float]:
    """The interval of a measure over the demonstrations that have it."""
    having = [one for one in chosen if not np.isnan(getattr(one, name))]
    values, units = ([getattr(one, key) for one in having] for key in (name, "unit"))
    return prefixed_interval(values, units, name, bounded=False)
