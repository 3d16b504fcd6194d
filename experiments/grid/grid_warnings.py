"""Warnings about a grid that need no model: what a config asks for is not what it seems to be.

- A contrast is one of its own controls if its branches all equal the prompt.
- Weights that do not sum to one are a hidden temperature.
- A strategy with unfitted parameters changes nothing. Parameters may be fitted on another model or task.
- Some models and answer modes give no top log-probabilities.
- A model has notes of its own, for example that its checkpoint is already quantized.
- A chat template changes prompts, or begins answers in its own way. The prompts are those that the composers write for
  two made-up demonstrations, so no data are read.
- A task has notes of its own, for example on rows that it leaves out. They need its data, which are read by then.
- A metric of numbers does not score answers that are none.
- A claim or a published number is about an arm or a metric that the grid lacks. This is no error, because an override
  such as `grid.shots=[0]` may leave out the arms of a claim.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from decoding.arms.inspection import constant_strength
from experiments.config import AXES, BASELINE_KEY, PublishedSpec, match_label, primary_metric
from experiments.grid.feasibility import locate
from experiments.grid.fitted_parameters import mismatch_warnings, retriever_warnings, vector_warnings
from experiments.grid.grid import Cell, Grid
from icl import (
    IMAGE_PLACEHOLDER,
    ConfigError,
    Context,
    Demo,
    EmptyBlocks,
    Example,
    ICLError,
    Image,
    Model,
    ModelError,
    Prompt,
    Query,
    did_you_mean,
)
from icl.metrics.machinery.answer_extraction import gold_number
from icl.models.hf.template_facts import TemplateFacts, with_empty_blocks
from icl.tasks.base import task_parts

TOLERANCE = 1e-6
"""Of the sum of weights from 0 and 1."""


def grid_warnings(grid: Grid) -> tuple[str, ...]:
    """Sentences with their places in the file, each once. Controls that the grid adds cause no warnings."""
    of_arms = (_branches, _temperatures, _traces, _unfitted, _fitted)
    checks = (*of_arms, _models, _templates, _data, _numbers, statement_warnings)
    return tuple(dict.fromkeys(sentence for check in checks for sentence in check(grid)))


def degenerate_at_shots(cell: Cell, shots: int) -> str | None:
    """What the cell's contrast is equivalent to at this number of shots, in a sentence; None if it is a contrast.

    Also None if the strategy cannot read the made-up prompt. Its samples then fail with the reason.
    """
    from decoding import degenerate_contrast, probe_prompt

    try:
        return degenerate_contrast(cell.decoding.strategy, probe_prompt(shots))
    except ICLError:
        return None


def _data(grid: Grid) -> Iterator[str]:
    for cell in {id(cell.task): cell for cell in grid.cells}.values():
        for note in (note for part in task_parts(cell.task) for note in getattr(part, "notes", ())):
            yield f"{locate(grid, 'task', cell)}: {note}"
        if note := placeholder_note(cell.task.queries):
            yield f"{locate(grid, 'task', cell)}: {note}"


def placeholder_note(queries: Sequence[Example]) -> str:
    """A sentence if questions contain the mark of an image as text, else ''."""
    marked = [query.id for query in queries if IMAGE_PLACEHOLDER in query.question]
    if not marked:
        return ""
    return (
        f"{len(marked):,} of {len(queries):,} questions contain the text {IMAGE_PLACEHOLDER}, such as '{marked[0]}'. "
        "It places no image: images precede or follow the question, and a model reads it as text or refuses the "
        "prompt. Remove it from the data."
    )


def _numbers(grid: Grid) -> Iterator[str]:
    names = [name for name, metric in grid.metrics.items() if getattr(metric, "reads_numbers", False)]
    for cell in {id(cell.task): cell for cell in grid.cells if names}.values():
        golds = [query.answers for query in cell.task.queries]
        others = [answers for answers in golds if gold_number(answers) is None]
        if others:
            yield (
                f"{locate(grid, 'task', cell)}: {len(others):,} of {len(golds):,} answers are not numbers, such as "
                f"{''.join(others[0][:1])!r:.40}, so these queries have no score of {', '.join(names)}."
            )


def _branches(grid: Grid) -> Iterator[str]:
    for cell, shots in _strategies(grid):
        sentences = {k: sentence for k in shots if (sentence := degenerate_at_shots(cell, k))}
        if sentences:
            at = f"at {', '.join(map(str, sentences))} shots " if len(sentences) < len(shots) else ""
            yield f"{locate(grid, 'decoding', cell)}: {at}{next(iter(sentences.values()))}"


def _temperatures(grid: Grid) -> Iterator[str]:
    for cell, _ in _strategies(grid):
        strength, label = constant_strength(cell.decoding.strategy), cell.decoding.label
        if strength is None or abs(strength - 1) < TOLERANCE:
            continue
        where = locate(grid, "decoding", cell)
        if strength > 0:
            yield (
                f"{where}: the weights of '{label}' sum to {strength:.3g}, which has the effect of a temperature of "
                f"{1 / strength:.3g}. Its control temperature_matched measures this effect."
            )
        else:
            yield (
                f"{where}: the weights of '{label}' sum to {strength:.3g}: agreement of its branches "
                f"{'has no effect' if abs(strength) < TOLERANCE else 'counts against a token'}. Compare it with its "
                "control entropy_matched."
            )


def _unfitted(grid: Grid) -> Iterator[str]:
    for cell in grid.cells:
        if not cell.control and cell.decoding.strategy.is_unfitted:
            yield (
                f"{locate(grid, 'decoding', cell)}: '{cell.decoding.label}' has not been fitted and has the "
                "reference's scores. `icl fit FILE` fits its parameters on a dev split; `fitted: FILE` reads them."
            )


def _fitted(grid: Grid) -> Iterator[str]:
    places = {
        id(cell.decoding): locate(grid, "decoding", cell) for cell in grid.cells if cell.decoding.parameter_sources
    }
    yield from mismatch_warnings(grid, places)
    steered = {id(cell.intervene): locate(grid, "intervene", cell) for cell in grid.cells if cell.steering is not None}
    yield from vector_warnings(grid, steered)
    yield from retriever_warnings(grid, lambda cell: locate(grid, "retriever", cell))


def _traces(grid: Grid) -> Iterator[str]:
    if not grid.config.top_logprobs:
        return
    where = grid.config.where("top_logprobs")
    if any(cell.answer_mode == "options" for cell in grid.cells):
        yield f"{where}: options are scored without decoding steps, so cells with answer_mode: options record none."
    for model in grid.models:
        if not model.abilities & {"logits", "strategies"}:
            name = next(cell.labels["model"] for cell in grid.cells if cell.model is model)
            yield f"{where}: model '{name}' gives no logits, so its samples record no steps."


def _models(grid: Grid) -> Iterator[str]:
    for model in grid.models:
        cell = next(cell for cell in grid.cells if cell.model is model)
        with locating(grid, model):
            notes = model.plan_notes
        for note in notes:
            yield f"{locate(grid, 'model', cell)}: model '{cell.labels['model']}': {note}"


def _templates(grid: Grid) -> Iterator[str]:
    for cell, note in template_notes(grid):
        yield f"{locate(grid, 'model', cell)}: model '{cell.labels['model']}': {note}."


def loading_problems(grid: Grid, models: Iterable[Model]) -> Iterator[str]:
    """A sentence for each model that cannot be loaded on this machine. A plan needs none of them loaded."""
    for model in models:
        try:
            with locating(grid, model):
                model.check_loadable()
        except ModelError as error:
            yield str(error)


@contextmanager
def locating(grid: Grid, model: Model) -> Iterator[None]:
    """Adds the place of a model in the file to a ModelError."""
    try:
        yield
    except ModelError as error:
        place = locate(grid, "model", next(cell for cell in grid.cells if cell.model is model))
        where = place.rpartition(": ")[0] if str(error).startswith("model.") else place
        raise type(error)(f"{where}: {error}") from error


def _strategies(grid: Grid) -> Iterator[tuple[Cell, list[int]]]:
    """The first cell of each decoding of the config, and its numbers of shots."""
    by_decoding: dict[str, tuple[Cell, dict[int, None]]] = {}
    for cell in grid.cells:
        if not cell.control and not cell.decoding.strategy.traits.is_control:
            by_decoding.setdefault(cell.decoding.digest, (cell, {}))[1][cell.shots] = None
    yield from ((cell, list(shots)) for cell, shots in by_decoding.values())


LARGEST_SHARE = 1.5
"""A published accuracy, or a difference of two, above it is read as a percentage."""
SAME_WORD = 0.8
"""The similarity from which the name of a column is a misspelled axis."""


def statement_warnings(grid: Grid) -> Iterator[str]:
    """A sentence with its place on each part of a claim or number that the grid lacks."""
    for i, claim in enumerate(grid.config.claims):
        for key in ("arm", "against"):
            yield from _settings(grid, ("claims", i, key), getattr(claim, key))
        for key in ("metric", "tasks_with"):
            yield from _metric(grid, ("claims", i, key), getattr(claim, key))
    for i, number in enumerate(grid.config.published):
        for key in ("at", "minus"):
            yield from _settings(grid, ("published", i, key), getattr(number, key) or {})
        yield from _metric(grid, ("published", i, "metric"), number.metric)
        yield from _percentage(grid, ("published", i, "value"), number)


def _settings(grid: Grid, place: tuple[str | int, ...], setting: Mapping[str, Any]) -> Iterator[str]:
    for axis, value in setting.items():
        where = grid.config.where(*place, axis)
        if axis in AXES:
            labels = list(dict.fromkeys(str(cell.labels[axis]) for cell in grid.cells))
            try:
                match_label(value, labels, axis, where)
            except ConfigError as error:
                yield str(error)
        elif axis != BASELINE_KEY and (near := get_close_matches(axis, AXES, 1, SAME_WORD)):
            yield f"{where}: no axis '{axis}', so it is read as a column of the data. Did you mean '{near[0]}'?"


def _metric(grid: Grid, place: tuple[str | int, ...], name: str | None) -> Iterator[str]:
    if name is not None and name not in grid.metrics:
        hint, names = did_you_mean(name, grid.metrics), ", ".join(grid.metrics)
        yield f"{grid.config.where(*place)}: no metric '{name}' in metrics.{hint} There are {names}."


def _percentage(grid: Grid, place: tuple[str | int, ...], number: PublishedSpec) -> Iterator[str]:
    compare = grid.config.compare
    name = number.metric or (compare.metric if compare else primary_metric({}, list(grid.metrics)))
    if abs(number.value) > LARGEST_SHARE and getattr(grid.metrics.get(str(name)), "accuracy", False):
        yield (
            f"{grid.config.where(*place)}: '{name}' is a share from 0 to 1, and {number.value:g} is none. "
            f"Write a percentage as {number.value / 100:g}."
        )


Pieces = tuple[tuple[str, tuple[str | None, ...]], ...]
"""For each turn its role and its texts and images (None), as a template receives them."""


def template_notes(grid: Grid) -> Iterator[tuple[Cell, str]]:
    """A cell and a sentence on its model's chat template, each once. Raises ModelError if a template is broken."""
    for model in grid.models:
        cells = [cell for cell in grid.cells if cell.model is model and not cell.control]
        with locating(grid, model):
            facts = model.template_facts if cells else None
        if facts is not None:
            yield from ((cells[0], note) for note in _notes(facts, cells))


def _notes(facts: TemplateFacts, cells: list[Cell]) -> Iterator[str]:
    prompts = dict(_prompts(cells))
    all_pieces = [pieces for own in prompts.values() for pieces in own.values()]
    yield from _answer_notes(
        facts,
        cells,
        has_turns=any("assistant" in _roles(pieces) and "empty blocks" not in _roles(pieces) for pieces in all_pieces),
    )
    if not facts.keeps_white_space and (losing := [label for label, own in prompts.items() if _trimmed(own) != own]):
        yield (
            "the chat template removes white space around images and at the ends of turns, so "
            f"{_listed(losing)} {'lose theirs' if len(losing) > 1 else 'loses its own'}"
        )
    yield from _equal_prompts(prompts, trims=not facts.keeps_white_space)
    moved = [label for label, own in prompts.items() if any(map(_has_text_first, own.values()))]
    if facts.images_first and moved:
        yield (
            "the chat template puts the images of a turn before its texts; the images of "
            f"{_listed(moved)} are written within the texts instead"
        )
    yield from _budget_notes(facts, cells)
    yield from _system_notes(facts, any("system" in _roles(pieces) for pieces in all_pieces))
    if facts.writes_date:
        yield "the chat template writes a date into prompts: the day on which the run starts, also if it goes on later"


def _answer_notes(facts: TemplateFacts, cells: list[Cell], has_turns: bool) -> Iterator[str]:
    """Notes on where an answer begins."""
    quick = any(cell.answer_mode == "options" and cell.max_thinking_tokens is None for cell in cells)
    if quick and facts.answer_start.strip():
        yield f"options are scored after {facts.answer_start.strip()!r}, as the chat template begins an answer"
    unlimited = any(cell.answer_mode == "generate" and cell.max_thinking_tokens is None for cell in cells)
    if unlimited and facts.opens_block and facts.block is not None:
        names = f" (it takes {', '.join(facts.arguments)})" if facts.arguments else ""
        opens = (
            f"prompts end in an open reasoning block ({facts.block.opening})"
            if facts.block.opening
            else f"the chat template asks for reasoning, and for the answer after {facts.block.closing}"
        )
        yield (
            f"{opens}, so the tokens of the reasoning count as answer. Set max_thinking_tokens, or switch it off by "
            f"model.template{names}"
        )
    if has_turns and not facts.accepts_turns:
        yield "the chat template takes no answers as turns. Use a composer of a single user turn, such as interleaved"
    elif has_turns and facts.demos_lack_block and facts.block is not None:
        yield (
            f"the query has a reasoning block ({facts.block.opening or facts.block.closing}) before its answer, and "
            "demonstrations have none (composer.empty_blocks: everywhere writes an empty one before all answers)"
        )


def _budget_notes(facts: TemplateFacts, cells: list[Cell]) -> Iterator[str]:
    """Notes on thinking budgets of prompts that do not end in an open reasoning block."""

    by_mode: dict[EmptyBlocks, list[Cell]] = {}
    for cell in cells:
        if cell.max_thinking_tokens:  # a budget of 0 asks for no reasoning
            by_mode.setdefault(getattr(cell.composer, "empty_blocks", "as_template"), []).append(cell)
    for mode, own in by_mode.items():
        is_own = mode == "as_template"
        if facts.opens_block if is_own else not facts.empty_block:  # without a block, such prompts are refused
            continue
        closing = "" if facts.block is None else facts.block.closing
        is_closed = bool(closing) and closing in with_empty_blocks(mode, facts.prompt_end, (), facts)
        if closing and not is_closed and not facts.opens_block:  # the model opens the block itself
            continue
        labels = _listed(list(dict.fromkeys(str(cell.labels["composer"]) for cell in own)))
        effect = (
            f"max_thinking_tokens has no effect with {labels}: prompts end after {closing!r}"
            if is_closed
            else f"max_thinking_tokens limits only reasoning that the model begins by itself with {labels}: prompts "
            "open no reasoning block"
        )
        if any(cell.answer_mode == "options" for cell in own):
            effect += f", so options are scored without reasoning{'' if is_closed else ' if it begins none'}"
        changes = [] if is_own else ["composer.empty_blocks: as_template"]
        if closing and closing in facts.prompt_end and facts.arguments:
            changes.append(f"model.template, so that prompts open one (it takes {', '.join(facts.arguments)})")
        yield f"{effect}. Set {' and '.join(changes)}" if changes else effect


def _system_notes(facts: TemplateFacts, has_system: bool) -> Iterator[str]:
    """Notes on system turns, of the composers or of the template itself."""
    if facts.default_system:
        adds = f"the chat template adds a system prompt of its own, of {len(facts.default_system):,} characters"
        yield f"{adds}, which `system` replaces" if has_system and facts.replaces_default else adds
    if has_system and facts.system == "in the user turn":
        yield "the chat template writes the system turn into the first user turn"
    elif has_system and facts.system in ("moved", "dropped", "refused"):
        does = {"moved": "moves the system turn behind other turns", "dropped": "drops the system turn"}
        yield (
            f"the chat template {does.get(facts.system, 'refuses a system turn')}. Use `instruction_text` of the "
            "composer instead of `system`"
        )


def _equal_prompts(prompts: dict[str, dict[int, Pieces]], trims: bool) -> Iterator[str]:
    """A sentence for each group of composers that write the same prompts."""
    groups: dict[tuple[tuple[int, Pieces], ...], list[str]] = {}
    for label, own in prompts.items():
        groups.setdefault(tuple((_trimmed(own) if trims else own).items()), []).append(label)
    for labels in groups.values():
        if len(labels) > 1:
            yield f"the prompts of {_listed(labels)} are identical, so their arms have the same answers"


def _prompts(cells: Iterable[Cell]) -> Iterator[tuple[str, dict[int, Pieces]]]:
    """Label of each composer -> number of demonstrations (0 or 2) -> pieces of its prompt."""
    shots: dict[str, tuple[Cell, set[int]]] = {}
    for cell in cells:
        shots.setdefault(str(cell.labels["composer"]), (cell, set()))[1].add(2 if cell.shots else 0)
    for label, (cell, numbers) in shots.items():
        try:
            yield label, {number: _pieces(cell.composer.compose(_context(number))) for number in sorted(numbers)}
        except ICLError:  # the samples of this composer fail with this error
            continue


def _context(shots: int) -> Context:
    images = [Image.from_source(_never, f"made up {i}") for i in range(3)]
    examples = [Example(f"made up {i}", (images[i],), "Which color?", ("red",), ("red", "blue")) for i in range(shots)]
    query = Query("made up", (images[2],), "Which color?", ("red", "blue"))
    return Context(query, tuple(Demo(example, 0.5, i) for i, example in enumerate(examples)))


def _never() -> Any:
    raise AssertionError("images are not opened")


def _pieces(prompt: Prompt) -> Pieces:
    from icl.models.hf.conversations import merged

    changed: Pieces = (("empty blocks", (prompt.empty_blocks,)),) if prompt.empty_blocks != "as_template" else ()
    return changed + tuple(
        (turn.role, tuple(piece if isinstance(piece, str) else None for piece in merged(turn))) for turn in prompt.turns
    )


def _trimmed(own: dict[int, Pieces]) -> dict[int, Pieces]:
    return {
        number: tuple(
            (role, tuple(piece if piece is None else piece.strip() for piece in pieces)) for role, pieces in turns
        )
        for number, turns in own.items()
    }


def _has_text_first(turns: Pieces) -> bool:
    """Whether an image of a turn follows a text."""
    return any(pieces[i] is not None and None in pieces[i:] for _, pieces in turns for i in range(len(pieces)))


def _roles(turns: Pieces) -> set[str]:
    return {role for role, _ in turns}


def _listed(labels: list[str]) -> str:
    return f"composer{'s' * (len(labels) > 1)} {', '.join(labels)}"
