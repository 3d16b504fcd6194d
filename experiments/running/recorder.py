"""Turn an answer into a sample of the store: scores, baselines of the same demonstrations, ids and digests.

Changed metrics are computed on stored answers (`rescore`), and a changed reader reads them again. No answer is computed
again, and no verdict of a judge is lost.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from experiments.contexts.contexts import PromptItem
from experiments.grid.grid import Cell, Grid
from experiments.running.generation import Answer, SampleRequest
from experiments.store import ROUNDING, Invocation, Store, describe_metrics, json_round_trip, read_cell_states
from icl import (
    OPTION_TEXTS,
    ComponentError,
    DataError,
    Demo,
    Example,
    Generation,
    Metric,
    Prompt,
    Sample,
    Task,
    canonical_digest,
    convert_user_errors,
)
from icl.metrics import BASELINES, Judge, folded_answers, unread_metrics
from prompts.example_changes import gold_before_after


class Recorder:
    """A builder of samples. Fields that the arms of one prompt share are computed once, until `clear_shared`."""

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self.metrics = metrics
        self.shared: dict[int, tuple[PromptItem, dict[str, Any]]] = {}
        self.other_answers: dict[int, tuple[Task, frozenset[str]]] = {}

    def clear_shared(self) -> None:
        """Drops the shared fields. The runner calls it after each window, so that they do not pile up."""
        self.shared.clear()

    def sample(self, request: SampleRequest, answer: Answer) -> Sample:
        """The sample of an answer, or a failed one where the answer is a reason."""
        shared = self._shared(request.item)
        if isinstance(answer, Generation) and (options := _options_with_nan(answer)):
            answer = f"the model's score of {', '.join(map(repr, options))} is not a number (NaN)."
        if isinstance(answer, str):
            return Sample(cell=request.cell.digest, seed=request.cell.seed, failed=answer, **shared)
        values = scores(self.metrics, answer, request.item.example)
        others = self._other_answers(request.cell.task)
        return Sample(
            cell=request.cell.digest,
            seed=request.cell.seed,
            output=answer.text,
            finish=answer.finish,
            thinking=answer.thinking,
            reasoning=answer.reasoning,
            masked=int(answer.masked),
            scores=values,
            unread=unread_metrics(self.metrics, values, answer, request.item.example, others),
            option_scores=answer.option_scores,
            trace=answer.trace,
            steps=answer.steps,
            usage={key: value for key, value in vars(answer.usage).items() if value or key != "thinking_tokens"},
            **shared,
        )

    def without_prompt(self, cell: Cell, item: PromptItem) -> Sample:
        """A failed sample whose prompt could not be built."""
        return Sample(cell=cell.digest, seed=cell.seed, failed=item.failure or "no prompt", **self._shared(item))

    def _other_answers(self, task: Task) -> frozenset[str]:
        if id(task) not in self.other_answers:
            self.other_answers[id(task)] = task, folded_answers(task.queries)
        return self.other_answers[id(task)][1]

    def _shared(self, item: PromptItem) -> dict[str, Any]:
        if id(item) not in self.shared:
            self.shared[id(item)] = item, self._shared_fields(item)
        return self.shared[id(item)][1]

    def _shared_fields(self, item: PromptItem) -> dict[str, Any]:
        demos, prompt = item.context.demos, item.prompt
        return {
            "demos": tuple((demo.example.id, demo.score, demo.example.answer) for demo in demos),
            "ranks": tuple(demo.rank for demo in demos),
            "dropped": item.num_dropped,
            "prompt": prompt.text if prompt else "",
            "prompt_digest": prompt.digest if prompt else "",
            "images": tuple(image.digest for image in prompt.images) if prompt else (),
            "image_of": _image_owners(prompt) if prompt else (),
            "gold_before_after": gold_before_after(item.example, item.context),
            "baselines": baselines(self.metrics, demos, item.example),
            "marks": item.context.provenance,
            "query": item.example.id,
            "question": item.context.query.question,
            "group": item.example.group,
            "gold": item.example.answers,
            "options": item.example.options,
            "meta": {**item.example.stored_meta, **_facts(item)},
        }


def scores(metrics: Mapping[str, Metric], answer: Generation, example: Example) -> dict[str, float]:
    """Name -> score of each metric that applies. Raises DataError if a score is not a number in [0, 1]."""
    values = {name: _score(name, metric, answer, example) for name, metric in metrics.items()}
    for name, value in values.items():
        if value is not None and not (isinstance(value, int | float) and -ROUNDING <= value <= 1 + ROUNDING):
            what = f"{name}: the score of {answer.text[:60]!r} for '{example.id}' is {value!r}"
            raise DataError(f"metrics: {what}, not a number in [0, 1] or None (icl check metric …).")
    return {name: value for name, value in values.items() if value is not None}


def _score(name: str, metric: Metric, answer: Generation, example: Example) -> float | None:
    try:
        with convert_user_errors(metric):
            return metric.score(answer, example)
    except ComponentError as error:
        raise DataError(f"metrics: {name}, of {answer.text[:60]!r} for '{example.id}': {error}") from error


def baselines(metrics: Mapping[str, Metric], demos: Sequence[Demo], example: Example) -> dict[str, dict[str, float]]:
    """Baseline -> metric -> score. A baseline answers from the demonstrations without a model.

    Its answer is scored as a model's answer, and if there are options, as the option with the highest score.
    """
    answers = {name: baseline(demos, example.query) for name, baseline in BASELINES.items()} if demos else {}
    by_text = {
        text: scores(metrics, _generation(text, example), example) for text in answers.values() if text is not None
    }
    return {name: by_text[text] for name, text in answers.items() if text is not None and by_text[text]}


def _generation(text: str, example: Example) -> Generation:
    """A generation whose text has the highest score, even if it is not one of the options."""
    return Generation(text, option_scores={**dict.fromkeys(example.options, 0.0), text: 1.0} if example.options else {})


def _facts(item: PromptItem) -> Mapping[str, Any]:
    """What the task derives from the demonstrations in the prompt (see `icl.tasks.base.Task`)."""
    facts = getattr(item.spec.cell.task, "facts", None)
    values: Mapping[str, Any] = facts([demo.example for demo in item.context.demos]) if facts else {}
    return values


def _options_with_nan(answer: Generation) -> list[str]:
    """Options whose score is NaN. Minus infinity is a valid score."""
    return [option for option, score in (answer.option_scores or {}).items() if math.isnan(score)]


def _image_owners(prompt: Prompt) -> tuple[int, ...]:
    """For each image the index of its demonstration; -1 for images of the query."""
    return tuple(-1 if part.demo is None else part.demo for part in prompt.parts() if part.image is not None)


def rescore(store: Store, grid: Grid, invocation: Invocation) -> int:
    """Computes the config's metrics for finished samples that have others. Returns the number of these samples."""
    metrics = describe_metrics(grid)
    digest = canonical_digest(json_round_trip(metrics))
    states = read_cell_states(store, [cell.digest for cell in grid.cells])
    of_run = {"metrics": (store.read_run() or {}).get("metrics", metrics)}  # for a cell without a description
    count = 0
    for cell in grid.cells:
        if states[cell.digest].metrics == digest:
            continue
        description = store.read_intact_cell(cell.digest) or of_run
        if description.get("metrics") == metrics:
            continue
        before = description.get("metrics", {})
        judged = [
            name
            for name, metric in grid.metrics.items()
            if isinstance(metric, Judge) and before.get(name) == metrics[name]
        ]
        samples = list(_rescored(store, cell, grid.metrics, judged, invocation))
        if samples:
            store.replace_samples(cell.digest, samples)
        store.write_cell(cell.digest, {**description, "metrics": metrics})
        count += len(samples)
    return count


def _rescored(
    store: Store, cell: Cell, metrics: Mapping[str, Metric], judged: Sequence[str], invocation: Invocation
) -> Iterator[dict[str, Any]]:
    """The samples with new scores. judged: unchanged judges; another machine may have stored their verdicts."""
    examples: dict[str, Example] = {example.id: example for example in cell.task.queries}
    others = folded_answers(cell.task.queries)
    for sample in store.samples(cell.digest):
        example = examples.get(sample["query"])
        if sample.get("failed") or example is None:
            yield sample
        else:
            verdicts = {name: sample["scores"][name] for name in judged if name in sample.get("scores", {})}
            values, unread = stored_answer_scores(metrics, sample, example, others)
            scored = {name: value for name, value in sample.items() if name != "unread"} | {
                "scores": values | verdicts,
                "baselines": baselines(metrics, _demos(sample), as_stored(sample, example)),
                "scores_invocation": invocation.id,
            }
            yield scored | ({"unread": list(unread)} if unread else {})


def stored_answer_scores(
    metrics: Mapping[str, Metric], sample: Mapping[str, Any], example: Example, other_answers: frozenset[str]
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The scores of a stored answer by metrics that may have changed, and the metrics for which it is unread.

    other_answers: those to all queries of the task (`icl.metrics.reading.folded_answers`).
    """
    answer = Generation(
        sample.get("output", ""),
        finish=sample.get("finish", "stop"),
        thinking=sample.get("thinking", ""),
        trace=sample.get("trace", {}),
        option_scores=sample.get("option_scores", {}),
    )
    stored = as_stored(sample, example)
    values = scores(metrics, answer, stored)
    return values, unread_metrics(metrics, values, answer, stored, other_answers)


def as_stored(sample: Mapping[str, Any], example: Example) -> Example:
    """The example with the answers and options of the sample, which may be letters or have other names."""
    stored = sample.get("meta", {})
    texts = {OPTION_TEXTS: stored[OPTION_TEXTS]} if OPTION_TEXTS in stored else {}
    return replace(
        example,
        answers=tuple(sample.get("gold", ())),
        options=tuple(sample.get("options", ())),
        meta={**example.meta, **texts},
    )


def _demos(sample: Mapping[str, Any]) -> list[Demo]:
    """The demonstrations with the fields that baselines read."""
    demos = zip(sample.get("demos", ()), sample.get("ranks", ()), strict=True)
    return [Demo(Example(name, (), "", (answer,)), score, rank) for (name, score, answer), rank in demos]
