"""From an answer to a line of the store: scores, the baselines of the same demonstrations, ids and digests."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from experiments.contexts.contexts import RenderedSample
from experiments.grid.grid import Cell
from experiments.running.generation import Answer, SampleRequest
from experiments.store.store import ROUNDING
from icl.errors import ComponentError, DataError
from icl.metrics.base import Metric
from icl.metrics.baselines import BASELINES
from icl.types import Demo, Example, Generation, Prompt, Sample
from icl.user_errors import convert_user_errors
from prompts.label_renaming import before_and_after


class Recorder:
    """Makes samples. What the arms of one prompt share is made once and kept until `forget`."""

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self.metrics = metrics
        self.shared: dict[int, tuple[RenderedSample, dict[str, Any]]] = {}

    def forget(self) -> None:
        """Lets go of what was made: at the end of a window."""
        self.shared.clear()

    def sample(self, asked: SampleRequest, answer: Answer) -> Sample:
        """The sample of an answer, or a failed one where the answer is a reason."""
        shared = self._shared(asked.item)
        if isinstance(answer, Generation) and (bad := _not_numbers(answer)):
            answer = f"the model's score of {', '.join(map(repr, bad))} is not a number (NaN)."
        if isinstance(answer, str):
            return Sample(cell=asked.cell.digest, seed=asked.cell.seed, failed=answer, **shared)
        return Sample(
            cell=asked.cell.digest,
            seed=asked.cell.seed,
            output=answer.text,
            finish=answer.finish,
            scores=scores(self.metrics, answer, asked.item.example),
            option_scores=answer.option_scores,
            trace=answer.trace,
            steps=answer.steps,
            usage=asdict(answer.usage),
            **shared,
        )

    def without_prompt(self, cell: Cell, item: RenderedSample) -> Sample:
        """A sample whose prompt could not be made."""
        return Sample(cell=cell.digest, seed=cell.seed, failed=item.failure or "no prompt", **self._shared(item))

    def _shared(self, item: RenderedSample) -> dict[str, Any]:
        if id(item) not in self.shared:
            self.shared[id(item)] = item, self._made(item)
        return self.shared[id(item)][1]

    def _made(self, item: RenderedSample) -> dict[str, Any]:
        demos, prompt = item.context.demos, item.prompt
        return {
            "demos": tuple((demo.example.id, demo.score, demo.example.answer) for demo in demos),
            "ranks": tuple(demo.rank for demo in demos),
            "dropped": item.num_dropped,
            "prompt": prompt.text if prompt else "",
            "prompt_digest": prompt.digest if prompt else "",
            "images": tuple(image.digest for image in prompt.images) if prompt else (),
            "image_of": _owners(prompt) if prompt else (),
            "gold_before_after": before_and_after(item.example, item.context),
            "baselines": baselines(self.metrics, demos, item.example),
            "marks": item.context.provenance,
            "query": item.example.id,
            "question": item.context.query.question,
            "group": item.example.group,
            "gold": item.example.answers,
            "options": item.example.options,
            "meta": {**item.example.meta, **_facts(item)},
        }


def scores(metrics: Mapping[str, Metric], answer: Generation, example: Example) -> dict[str, float]:
    """Every metric that applies. Raises DataError where one gives what is no score: no table could hold it."""
    found = {name: _score(name, metric, answer, example) for name, metric in metrics.items()}
    for name, value in found.items():
        if value is not None and not (isinstance(value, int | float) and -ROUNDING <= value <= 1 + ROUNDING):
            said = f"{name}: the score of {answer.text[:60]!r} for '{example.id}' is {value!r}"
            raise DataError(f"metrics: {said}, not a number in [0, 1] or None (icl check metric …).")
    return {name: value for name, value in found.items() if value is not None}


def _score(name: str, metric: Metric, answer: Generation, example: Example) -> float | None:
    try:
        with convert_user_errors(metric):
            return metric.score(answer, example)
    except ComponentError as error:
        raise DataError(f"metrics: {name}, of {answer.text[:60]!r} for '{example.id}': {error}") from error


def baselines(metrics: Mapping[str, Metric], demos: Sequence[Demo], example: Example) -> dict[str, dict[str, float]]:
    """Baseline -> every metric that applies to what the demonstrations say without a model.

    It is judged as if a model had said it, and where there are options had chosen it.
    """
    said = {name: say(demos, example.query) for name, say in BASELINES.items()} if demos else {}
    judged = {text: scores(metrics, _chosen(text, example), example) for text in said.values() if text is not None}
    return {name: judged[text] for name, text in said.items() if text is not None and judged[text]}


def _chosen(text: str, example: Example) -> Generation:
    """An answer that stands above all options, itself perhaps none of them."""
    return Generation(text, option_scores={**dict.fromkeys(example.options, 0.0), text: 1.0} if example.options else {})


def _facts(item: RenderedSample) -> Mapping[str, Any]:
    """What the task can tell of the demonstrations as they are shown (see `icl.tasks.base.Task`)."""
    tell = getattr(item.spec.cell.task, "facts", None)
    told: Mapping[str, Any] = tell([demo.example for demo in item.context.demos]) if tell else {}
    return told


def _not_numbers(answer: Generation) -> list[str]:
    """Options whose scores cannot be ranked; minus infinity can."""
    return [option for option, score in (answer.option_scores or {}).items() if math.isnan(score)]


def _owners(prompt: Prompt) -> tuple[int, ...]:
    """Of each image: the place of its demonstration, -1 for the query's."""
    return tuple(-1 if part.demo is None else part.demo for part in prompt.parts() if part.image is not None)
