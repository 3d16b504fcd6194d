"""What the chat template of a model does to the prompts of a grid, as far as it matters for this grid.

The prompts are those that the composers write for two made-up demonstrations, so no data are read.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from experiments.grid.grid import Cell, Grid
from icl import Context, Demo, EmptyBlocks, Example, ICLError, Image, Prompt, Query

if TYPE_CHECKING:
    from icl.models.hf.template_facts import TemplateFacts

Pieces = tuple[tuple[str, tuple[str | None, ...]], ...]
"""For each turn its role and its texts and images (None), as a template receives them."""


def template_notes(grid: Grid) -> Iterator[tuple[Cell, str]]:
    """A cell and a sentence on its model's chat template, each once. Raises ModelError if a template is broken."""
    for model in grid.models:
        cells = [cell for cell in grid.cells if cell.model is model and not cell.control]
        if cells and (facts := model.template_facts) is not None:
            yield from ((cells[0], note) for note in _notes(facts, cells))


def _notes(facts: "TemplateFacts", cells: list[Cell]) -> Iterator[str]:
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


def _answer_notes(facts: "TemplateFacts", cells: list[Cell], has_turns: bool) -> Iterator[str]:
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


def _budget_notes(facts: "TemplateFacts", cells: list[Cell]) -> Iterator[str]:
    """Notes on thinking budgets of prompts that do not end in an open reasoning block."""
    from icl.models.hf.template_facts import with_empty_blocks

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


def _system_notes(facts: "TemplateFacts", has_system: bool) -> Iterator[str]:
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
