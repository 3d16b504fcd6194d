"""How much does each answer token depend on its image? CAL's visual correlation (Xiao et al., NeurIPS 2024, 2405.17871)

    no_image     s_t = log p(y_t | image) - log p(y_t | the same prompt without the images of this example)
    other_image  the same, against another image of the pool in their place, if possible one with another answer
    weight       CAL's loss weight of a token (clamp(s, 1, 5), mean of 3 neighbors, over its sum), times the number
                 of answer tokens of the prompt: 1 is the weight of an ordinary loss
    logprob      log p(y_t | image), a token

In nats, as means over tokens: of the answers of demonstrations by their place in the prompt, and of the query's gold
answer after the prompt. A token of a demonstration is scored given everything before it. An answer is left out if it
has another number of tokens without its images. The model reads each prompt three times for each answer, on the first
50 queries of each cell (`--queries`).

Differs from the released code in the scores: log-probabilities in place of raw logits, which a constant moves, and
images that are left out in place of masked attention.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from experiments import RunView, interval_columns, make_table, prefixed_interval
from experiments.analyses.run_prompts import QUERIES, QUERY_ANSWER, RunPrompt, run_prompts, with_answer
from experiments.stats import format_count
from icl import ConfigError, DataFrame, Image, Part, Prompt, StreamKey, normalize_text, spans, torch

Scores = Mapping[str, Mapping[int, tuple[list[float], ...]]]
"""Owner -> number of the prompt -> log-probabilities of the answer with, without and with other images."""

BATCH = 32
"""Answers that are scored in one call, each after three prompts."""


def analyze(view: RunView, queries: int = QUERIES) -> DataFrame:
    """One row per answer of a prompt and setting. Raises PlanError if the model scores no texts."""
    table_rows: list[dict[str, Any]] = []
    left_out = 0
    for setting, prompts in run_prompts(view, "text_logprobs", queries, with_demos=False):
        scores, uneven = _scores(prompts)
        table_rows += [{**setting, **row} for row in _rows(prompts, scores)]
        left_out += uneven
    dropped = f"{format_count(left_out, 'answer')} left out: other tokens without the images" if left_out else ""
    if not table_rows:
        why = f" ({dropped})" if dropped else ""
        raise ConfigError(f"{view.path}: no answer in a prompt has an image whose effect could be measured{why}.")
    note = "in nats a token; weight: of CAL's loss, 1 as in an ordinary one; n: tokens"
    note += f"; {dropped}" if dropped else ""
    return make_table(
        table_rows,
        "Visual correlation of answer tokens",
        note=note,
        signed=("no_image", "low", "high", "other_image", "other_image_low", "other_image_high", "logprob"),
        figure={
            "x": "answer",
            "y": ("no_image", "other_image"),
            "measure": "change of log p, nats a token",
            "n": "tokens",
        },
    )


def _scores(prompts: Sequence[RunPrompt]) -> tuple[Scores, int]:
    """The scores of one setting, and the number of answers that are left out."""
    places = range(max(len(one.item.context.demos) for one in prompts))
    all_scores = {owner: dict(_of_answer(prompts, owner)) for owner in [*map(spans.demo, places), spans.QUERY]}
    scores = {
        owner: {number: each for number, each in of_owner.items() if len(set(map(len, each))) == 1}
        for owner, of_owner in all_scores.items()
    }
    return scores, sum(map(len, all_scores.values())) - sum(map(len, scores.values()))


def _rows(prompts: Sequence[RunPrompt], scores: Scores) -> Iterator[dict[str, Any]]:
    """The rows of one setting."""
    weights = _weights(scores)
    for owner, of_owner in scores.items():
        tokens = [(number, *token) for number, each in of_owner.items() for token in zip(*each, strict=True)]
        if not tokens:
            continue
        units = [prompts[number].unit for number, *_ in tokens]
        real, without, other = (np.array(values) for values in list(zip(*tokens, strict=True))[1:])
        yield {
            "answer": "query" if owner == spans.QUERY else f"demonstration {(spans.demo_index(owner) or 0) + 1}",
            **interval_columns(real - without, units, "no_image", bounded=False),
            **prefixed_interval(real - other, units, "other_image", bounded=False),
            "weight": float(np.mean([weight for number in of_owner for weight in weights[owner, number]])),
            "logprob": float(real.mean()),
            "n": len(tokens),
        }


def _of_answer(prompts: Sequence[RunPrompt], owner: str) -> Iterator[tuple[int, tuple[list[float], ...]]]:
    """(number of the prompt, log-probabilities with, without and with other images) of the owner's answer."""
    name = QUERY_ANSWER if owner == spans.QUERY else spans.answer(owner)
    variants = [(number, _variants(one, owner)) for number, one in enumerate(prompts)]
    having = [(number, own) for number, own in variants if own and name in own[0].spans]
    for start in range(0, len(having), BATCH):
        batch = having[start : start + BATCH]
        model: Any = prompts[batch[0][0]].cell.model
        rows = iter(model.text_logprobs([prompt for _, own in batch for prompt in own], name))
        for number, _ in batch:
            yield number, tuple(next(rows) for _ in range(3))


def _variants(one: RunPrompt, owner: str) -> tuple[Prompt, ...]:
    """The prompt, without the owner's images, and with others in their place; none if the owner has no image."""
    prompt = with_answer(one.prompt, one.item.example.answer) if owner == spans.QUERY else one.prompt
    answer = _answer(one, owner)
    own = {part.name: part.image.digest for part in prompt.parts() if part.image and spans.owner_of(part.name) == owner}
    if not own:
        return ()
    images = _other_images(one, set(own.values()), answer)
    if not images:
        return ()
    key = StreamKey(one.cell.seed, one.item.example.id).numpy(f"visual_correlation/{owner}")
    chosen = {name: images[int(key.integers(len(images)))] for name in own}

    def other(part: Part) -> Part:
        return replace(part, content=chosen[part.name]) if part.name in chosen else part

    return prompt, prompt.map(lambda part: None if part.name in own else part), prompt.map(other)


def _answer(one: RunPrompt, owner: str) -> str:
    place = spans.demo_index(owner)
    return one.item.example.answer if place is None else one.item.context.demos[place].example.answer


def _other_images(one: RunPrompt, own: set[str], answer: str) -> list[Image]:
    """Images of the pool with other pixels, and with other answers if there are any."""
    members = one.cell.task.pool(one.item.example.id).examples
    others = [member for member in members if normalize_text(member.answer) != normalize_text(answer)] or members
    return [image for member in others for image in member.images[:1] if image.digest not in own]


def _weights(scores: Scores) -> dict[tuple[str, int], list[float]]:
    """(owner, prompt) -> weights of the tokens of its answer, times the number of answer tokens of the prompt."""
    from experiments.tuning.objectives import cal_weights

    weights = {}
    for number in {number for of_owner in scores.values() for number in of_owner}:
        owners = [owner for owner in scores if number in scores[owner]]
        values: list[float] = []
        for owner in owners:
            real, without, _ = scores[owner][number]
            values += [a - b for a, b in zip(real, without, strict=True)] + [np.nan]  # no neighbors across answers
        row = torch.tensor([values], dtype=torch.float64)
        counts = ~row.isnan()
        result = (cal_weights(row.nan_to_num(), counts) * counts.sum())[0].tolist()
        start = 0
        for owner in owners:
            size = len(scores[owner][number][0])
            weights[owner, number] = result[start : start + size]
            start += size + 1
    return weights
