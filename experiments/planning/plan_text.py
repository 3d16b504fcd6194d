"""A plan in a few lines, for the terminal."""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import compress

from experiments.planning.plan import DecodingPlan, Plan

GAP = 3
"""Columns between two columns."""


def format_plan(plan: Plan, width: int | None = None) -> Iterator[str]:
    """The lines of `icl plan`, folded to a width where one is given."""
    for head, text in _lines(plan, width):
        yield from hanging_lines(head, text, width)


def format_count(count: float) -> str:
    """'3,140', '96 M': as many digits as an estimate deserves."""
    if count >= 10e9:
        return f"{count / 1e9:,.0f} G"
    if count >= 10e6:
        return f"{count / 1e6:,.0f} M"
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{round(count):,}"


def hanging_lines(head: str, text: str, width: int | None) -> list[str]:
    """The text beside its head, folded under itself; below its head where that is wide."""
    if width is None or len(head) + len(text) <= width:
        return [f"{head}{text}"]
    if 2 * len(head) > width:
        return [*_folded(head.rstrip(), width, "    "), *_folded(f"    {text}", width, "    ")]
    return _folded(f"{head}{text}", width, " " * len(head))


def _folded(text: str, width: int, below: str) -> list[str]:
    return textwrap.wrap(text, max(width, 20), subsequent_indent=below, break_on_hyphens=False)


def _lines(plan: Plan, width: int | None) -> Iterator[tuple[str, str]]:
    config, work = plan.grid.config, plan.work
    seeds = f" x {len(config.seeds)} seeds" if len(config.seeds) > 1 else ""
    shared = f" ({plan.sharing} share their demonstrations)" if plan.sharing else ""
    yield "", f"{plan.arms} arms{seeds}{shared}   {len(plan.grid.cells):,} cells   {plan.samples:,} samples"
    if plan.present:
        yield "reused       ", f"{plan.present:,} samples are there already, {plan.samples - plan.present:,} are to do"
    edited = f" and {format_count(work.edited)} edits of them" if work.edited else ""
    shown = format_count(work.images_shown)
    yield "images     ", f"{format_count(work.images)} distinct{edited}, encoded once; shown {shown} times"
    yield (
        "prompts      ",
        f"{format_count(work.prompts)} prefilled of {format_count(work.prompts_alone)} that the arms read",
    )
    spared = f" ({1 - work.tokens / work.tokens_alone:.0%} spared)" if work.tokens_alone else ""
    all_tokens = format_count(work.tokens_alone)
    yield "tokens       ", f"{format_count(work.tokens)} forwarded of {all_tokens} with every sample alone{spared}"
    if plan.found is not None:
        yield (
            "prefix cache ",
            f"{plan.found:.0%} of the tokens that vLLM is asked are found in it, if it has room for all",
        )
    counted = "; ".join(f"{title} {n:,} of {of:,}" for title, (n, of) in plan.counted.items() if n < of)
    if counted:
        yield " " * 13, f"estimated from a random choice of queries: {counted}"
    if work.failed:
        yield " " * 13, f"{format_count(work.failed)} samples have no prompt; why stands at the end"
    yield "", ""
    own = [arm for arm in plan.decodings if not arm.control]
    engines, tempered = _engines(own), _tempered(own)
    yield from (("", line) for line in _table(own, width))
    if engines:
        yield (
            "engine: ",
            "what decodes; loop: here, from logits; lockstep: inside the model; requests: the model by itself",
        )
    if tempered:
        yield (
            "hidden temperature: ",
            "1 / the sum of a strategy's weights, which alone makes answers surer or less sure",
        )
    controls = [arm for arm in plan.decodings if arm.control]
    if controls:
        yield "", ""
        branches = sum(arm.branches for arm in controls)
        yield "", f"controls added: {len(controls)} decodings, with {branches} branches in all"
        yield from _controls(controls, own)
    yield "", ""
    least = "; ".join(f"{title} {value:.3f}" for title, value in plan.smallest.items())
    yield "", f"smallest paired difference this can see (80 % power, one pair in five differs): {least}"
    yield from (("", note) for note in plan.notes)


def _table(arms: Sequence[DecodingPlan], width: int | None) -> Iterator[str]:
    """A row a decoding; a label that leaves no room for its numbers stands in a line above them."""
    kept = (True, _engines(arms), True, _tempered(arms))
    every = [("decoding", "engine", "branches", "hidden temperature"), *map(_row, arms)]
    rows = [tuple(compress(row, kept)) for row in every]
    head = rows[0]
    widths = [max(len(row[i]) for row in rows) + GAP for i in range(1, len(head))]
    room = max(width - sum(widths), len(head[0]) + GAP) if width else max(len(row[0]) for row in rows) + GAP
    first = max((len(row[0]) + GAP for row in rows if len(row[0]) + GAP <= room), default=room)
    for label, *cells in rows:
        told = "".join(cell.ljust(wide) for cell, wide in zip(cells, widths, strict=True))
        wide = len(label) + GAP > first
        yield from _folded(label, width or len(label), "  ") if wide else ()
        yield f"{'' if wide else label:<{first}}{told}".rstrip()


def _engines(arms: Sequence[DecodingPlan]) -> bool:
    """Whether anything but the loop decodes."""
    return any(arm.engine != "loop" for arm in arms)


def _tempered(arms: Sequence[DecodingPlan]) -> bool:
    """Whether any weights do not sum to one."""
    return any(arm.temperature is None or f"{arm.temperature:.3g}" != "1" for arm in arms)


def _row(arm: DecodingPlan) -> tuple[str, ...]:
    more = " + generates first" if arm.generates_first else ""
    temperature = "varies" if arm.temperature is None else f"{arm.temperature:.3g}"
    return arm.label, arm.engine, f"{arm.branches}{more}", temperature


def _controls(controls: Sequence[DecodingPlan], own: Sequence[DecodingPlan]) -> Iterator[tuple[str, str]]:
    """The controls by what they are controls of; decodings with the same ones stand together."""
    judged = [arm.label for arm in own if any(arm.label in control.owners for control in controls)]
    shared = [control for control in controls if len(judged) > 1 and set(judged) <= set(control.owners)]
    sets: dict[tuple[str, ...], list[str]] = {}
    for label in judged:
        names = tuple(control.name for control in controls if label in control.owners and control not in shared)
        sets.setdefault(names, []).append(label)
    told = [(", ".join(labels), ", ".join(names)) for names, labels in sets.items() if names]
    if shared:
        told.append(("each of them", ", ".join(control.name for control in shared)))
    for labels, of_them in told:
        yield f"  of {labels}: ", of_them
