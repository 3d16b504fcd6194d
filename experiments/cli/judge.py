"""Let a model judge outputs that could not be read; labels of people then measure its error and correct it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.options import Metric, Quiet, Trust, model_node
from experiments.config.yaml_document import parse_override
from experiments.report.sample_browser import image_path
from experiments.results import Output, Queue, load_run, require_queue
from experiments.results.labeling import judge_error
from experiments.results.view_run import NO_REFERENCE, view_run
from experiments.running.judging import (
    collect_verdicts,
    control_requests,
    count_controls,
    describe_controls,
    refusal_of_controls,
)
from experiments.stats import format_count
from experiments.store.labels import Label, append_labels, read_labels
from experiments.terminal.progress import make_progress
from icl import Example, Image, ModelError, StoreError, build, describe
from icl.metrics.machinery.judge import Judge


def command(
    run: Annotated[Path, typer.Argument(help="a run directory", show_default=False)],
    parameters: Annotated[
        list[str] | None,
        typer.Argument(help="parameters of the metric judge, such as images=true prompt=mine.txt", show_default=False),
    ] = None,
    *,
    model: Annotated[
        str,
        typer.Option(help="the judge, such as '{name: remote, url: http://127.0.0.1:8000/v1, model: …}'"),
    ],
    metric: Metric = "",
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Asks for a verdict on each unread output. No verdict counts alone: it replaces the metric's guess, which the
    labels of `icl label RUN` correct. A better judge makes the interval narrower, and a bad one cannot shift it.

    Four controls run first: accepted, empty, other and swapped answers. A judge that calls empty answers right, or
    accepted ones wrong, is refused, and its verdicts are not stored. The controls send empty answers on purpose; empty
    outputs of the run count as wrong and are not sent.

    `icl judge runs/x --model Qwen/Qwen2.5-7B-Instruct`, then `icl label runs/x`
    """
    loaded = load_run(run, trust)
    queue = require_queue(loaded.lazy_samples(), view_run(loaded, metric or None, NO_REFERENCE).metric, run)
    judge = _judge(model, parameters or [])
    note = make_progress(quiet).note
    _check(judge, queue, run, note)
    outputs = [one for one in queue.first(None) if one.is_unread]
    requests = {one.key: judge.request(one.text, _example(one, judge, run)) for one in outputs}
    collect_verdicts(judge, list(requests.values()), note)
    verdicts = {key: judge.verdicts.get(request.key, {"right": None})["right"] for key, request in requests.items()}
    stored = read_labels(run)
    new = [Label(key, right, _name(judge), judge=judge.judge.digest) for key, right in verdicts.items()
           if right is not None and stored.judged.get(key) != right]  # fmt: skip
    if new:
        append_labels(run, new)
    read = sum(right is not None for right in verdicts.values())
    print(f"{read:,} of {format_count(len(outputs), 'unread output')} judged by {_name(judge)}   {run}")
    print(judge_error(read_labels(run), outputs))
    print(f"To settle the comparisons: icl label {run}")


def _judge(model: str, parameters: list[str]) -> Judge:
    node = {"name": "judge", "judge": model_node(model), **dict(map(parse_override, parameters))}
    judge: Judge = build("metric", node, "--model")
    return judge


def _check(judge: Judge, queue: Queue, run: Path, note: Callable[[str], None]) -> None:
    """Runs the controls. Raises ModelError for a judge that fails them."""
    answered = []
    for query in queue.unread:
        output = next(one for one in queue.outputs[query] if one.is_unread)
        example = _example(output, judge, run)
        answered.append((example, output.text, example))
    controls = control_requests(judge, answered)
    collect_verdicts(judge, [one for pairs in controls.values() for pair in pairs for one in pair], note)
    counts = {control: count_controls(judge, control, pairs) for control, pairs in controls.items()}
    print(describe_controls("controls", counts), file=sys.stderr)
    if reason := refusal_of_controls(counts):
        raise ModelError(f"{_name(judge)} cannot judge: {reason}. Use another model, or another prompt (prompt=FILE).")


def _example(output: Output, judge: Judge, run: Path) -> Example:
    paths = [image_path(run, name) for name in output.images] if judge.images else []
    images = tuple(Image.from_path(path) for path in paths if path is not None)
    if len(images) < len(paths):
        raise StoreError(
            f"{run / 'images'} lacks the file of an image of query '{output.query}', or has a link in its place. Use a "
            "copy of the run with its images, or images=false."
        )
    return Example(output.query, images, output.question, output.gold, output.options)


def _name(judge: Judge) -> str:
    """The model of a judge, for people."""
    node = describe(judge.judge)
    return str(node.get("model") or node.get("path") or node["name"])
