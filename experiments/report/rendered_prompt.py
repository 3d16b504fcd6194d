"""The prompt of one sample as the model's processor writes it: text with special tokens, and images.

The other branches of the arm's decoding follow, each with its changes. The source is a run or an experiment file,
before anything ran: demonstrations are retrieved, ordered, transformed and composed as in a run, and the checkpoint's
chat template writes the text. No weights are loaded unless a retriever or an orderer needs them. An endpoint writes its
own text; in that case the messages are printed.
"""

import json
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from decoding.arms.inspection import constant_weights, probe_branches
from experiments.config import AXES, load_config, name_of, to_flow_yaml
from experiments.contexts.contexts import PromptSpec, Retrieval, build_contexts, render
from experiments.grid.grid import Cell, Grid, expand
from experiments.terminal.progress import spinner
from icl import ConfigError, DataError, Example, Model, PlanError, Prompt, did_you_mean, rich, strip_control_characters
from icl.registry import describe


def print_prompt(
    source: Path,
    query: str,
    arm: Mapping[str, str],
    seed: int | None,
    console: "rich.console.Console",
    *,
    trust: bool = False,
) -> None:
    """Prints the prompt of a query. If several arms fit, it takes the most shots, then the first one in the file.

    Args:
        source: A run directory or an experiment file.
        query: An id or the beginning of one; '' for the first query.
        arm: The values of some axes.
        seed: The seed, by default the first.
        console: The output.

    Raises:
        ICLError: As in a run.
    """
    with spinner() as report_progress:
        report_progress("starting", 0, 0)
        cell = choose_cell(_grid(source, trust), arm, seed)
        example = _example(cell.task.queries, query)
        report_progress("retrieving", 0, 0)
        (row,) = build_contexts(Retrieval(cell.task, cell.model), [PromptSpec((cell,))], [example])
        report_progress("writing", 0, 0)
        item = render(row[0])
        if item.prompt is None:
            raise PlanError(f"query '{example.id}' has no prompt: {item.failure}")
        lines = list(prompt_lines(cell, example, item.prompt, item.context.provenance, console.width))
    for line in lines:
        console.print(strip_control_characters(line), markup=False, highlight=False, soft_wrap=True)


def choose_cell(grid: Grid, arm: Mapping[str, str], seed: int | None) -> Cell:
    """The cell of an arm. Raises ConfigError for an axis or a value that the grid lacks."""
    cells = list(grid.cells)
    for axis, axis_label in arm.items():
        if axis not in AXES:
            raise ConfigError(f"--arm: no axis '{axis}'.{did_you_mean(axis, AXES)} Axes: {', '.join(AXES)}.")
        have = list(dict.fromkeys(str(cell.labels[axis]) for cell in grid.cells))
        named = [axis_label] if axis_label in have else [label for label in have if name_of(label) == axis_label]
        cells = [cell for cell in cells if str(cell.labels[axis]) in named]
        if not named:
            raise ConfigError(
                f"--arm: no arm has {axis} '{axis_label}'.{did_you_mean(axis_label, have)} {', '.join(have)}."
            )
    cells = [cell for cell in cells if seed is None or cell.seed == seed]
    if not cells:
        setting = ", ".join(f"{axis}={value}" for axis, value in arm.items())
        raise ConfigError(
            f"no arm has {setting or 'this seed'}{f' and seed {seed}' if setting and seed is not None else ''}."
        )
    return max(cells, key=lambda cell: cell.shots)


def prompt_lines(cell: Cell, example: Example, prompt: Prompt, marks: Sequence[str], width: int = 80) -> Iterator[str]:
    """The arm, the text, a line per image, and the number of tokens."""
    labels = {axis: value for axis, value in cell.labels.items() if value != "none" and axis != "max_new_tokens"}
    title = ", ".join(f"{axis} {labels[axis]}" for axis in sorted(labels, key="seed".__eq__))
    yield from textwrap.wrap(f"arm    {title}", width, subsequent_indent=" " * 7, break_on_hyphens=False)
    yield f"query  {example.id}"
    yield ""
    text, source = _text_and_source(cell.model, prompt)
    yield f"prompt, {source}"
    yield ""
    yield text
    yield ""
    for number, part in enumerate(part for part in prompt.parts() if part.image is not None):
        image: Any = part.image
        size = image.open().size
        edits = "".join(f", {type(edit).__name__.lower()}" for edit in image.edits)
        yield f"image {number}  {part.name or 'glue'}  {size[0]} x {size[1]}{edits}  {image.origin}"
    count = cell.model.count_tokens(prompt)
    about = "" if cell.model.counts_exactly else "about "
    limit = cell.model.max_tokens
    yield f"{about}{count:,} tokens{f' of {limit:,}' if limit else ''}, {len(prompt.images)} images"
    yield from (f"mark: {mark}" for mark in marks)
    yield from _further_branches(cell, prompt)


def _further_branches(cell: Cell, prompt: Prompt) -> Iterator[str]:
    """The other branches: weight, changes, and the text if it differs.

    Text that a strategy would generate first is replaced by a made-up sentence. Raises ICLError if no branches can be
    made.
    """
    from experiments.planning.plan import generates_first

    strategy = cell.decoding.strategy
    branches = probe_branches(strategy, prompt)
    weights = constant_weights(strategy) if len(branches) > 1 else None
    before = prompt_text(cell.model, prompt)
    if generates_first(strategy):
        yield ""
        yield "text that the model would generate for its branches is replaced by the words 'a red square'"
    for number, branch in enumerate(branches):
        title = f"branch {number}" + (f", weight {weights[number]:g}" if weights and len(weights) > number else "")
        text = prompt_text(cell.model, branch)
        if number == 0 and branch.digest == prompt.digest:
            if len(branches) > 1:
                yield ""
                yield f"{title}: the prompt above"
            continue
        yield ""
        yield f"{title}: {'; '.join(branch_changes(prompt, branch, before != text)) or 'the same as the prompt'}"
        if text != before:
            yield ""
            yield text


def branch_changes(prompt: Prompt, branch: Prompt, text: bool) -> Iterator[str]:
    """The differences from the prompt: edited, other, removed or added images. text: whether the text differs."""
    had = {part.name: part.image for part in prompt.parts() if part.image is not None}
    has = {part.name: part.image for part in branch.parts() if part.image is not None}
    edited: dict[str, list[str]] = {}
    for name, image in has.items():
        old = had.get(name)
        if old is None:
            yield f"{name} is new ({image.origin})"
            continue
        if image.source_digest != old.source_digest:
            yield f"{name} is another image ({image.origin})"
        same = image.edits[: len(old.edits)] == old.edits
        if edits := image.edits[len(old.edits) :] if same else image.edits:
            edited.setdefault(" and ".join(map(_edit, edits)), []).append(name)
    yield from (f"{', '.join(names)} edited by {how}" for how, names in edited.items())
    if gone := [name for name in had if name not in has]:
        yield f"without {', '.join(gone)}"
    if text:
        yield "text changed:"


def _edit(edit: Any) -> str:
    """An edit as a config names it, without its random stream."""
    node = describe(edit)
    parameters = {key: value for key, value in node.items() if key not in ("name", "code", "stream")}
    return f"{node['name']}{f' {to_flow_yaml(parameters)}' if parameters else ''}"


def prompt_text(model: Model, prompt: Prompt) -> str:
    """The prompt as the model reads it."""
    return _text_and_source(model, prompt)[0]


def _text_and_source(model: Model, prompt: Prompt) -> tuple[str, str]:
    """The prompt as the model reads it, and the source of that text."""
    if (rendered := model.render(prompt)) is not None:
        return rendered, "as the model's processor writes it, a placeholder for each image"
    if model.is_endpoint:
        messages = [
            {"role": turn.role, "content": [part.text if part.image is None else "<image>" for part in turn.parts]}
            for turn in prompt.turns
        ]
        return json.dumps(messages, indent=2, ensure_ascii=False), "as the messages that are sent to the endpoint"
    return prompt.text, "as the model receives it"


def _grid(source: Path, trust: bool) -> Grid:
    if not os.path.isdir(source):
        return expand(load_config(source))
    from experiments.results.loaded_run import load_run

    return expand(load_run(source, trust).load_config())


def _example(queries: Sequence[Example], name: str) -> Example:
    near = [query for query in queries if query.id == name] or [q for q in queries if q.id.startswith(name)]
    if near:
        return near[0]
    ids = [query.id for query in queries]
    override = " A prompt is shown as the file says: write the key into the file." if "=" in name else ""
    raise DataError(
        f"there is no query '{name}'.{did_you_mean(name, ids)}{override} IDs look like {', '.join(ids[:3])}."
    )
