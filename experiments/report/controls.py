"""The table of controls: the effect of each decoding on the answers, next to its controls, with a verdict.

The terminal (`icl compare RUN --controls`), the page and `tables/controls.csv` use the same table. In a terminal, the
columns are split into blocks that fit its width. Each block has the names of the arms.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from math import isnan
from typing import TYPE_CHECKING, Any

from experiments.config.keys import DEFAULT_METRICS
from experiments.report.comparison import no_transitions_note
from experiments.results.run_view import RunView
from experiments.stats.decoding_effects import OTHER_ANSWER, DecodingEffect
from experiments.stats.formatting import few_units_note, format_count, format_estimate, format_share, join_words

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

GAP = 2
PARTIAL_MARK = "†"
"""Marks an arm that lacks settings of the reference."""
TRANSITION_HEADINGS = ("R→W/W→R", "worse/better", "down/up")
MOVED_GRADED = {name: name.replace("/", " / ") for name in TRANSITION_HEADINGS}
COLUMN_NOTES = {
    "answers": "answers: share of each answer here (and in the reference); other: not one of the options",
    "R→W/W→R": "R→W/W→R: answers that are right under the reference and wrong under this arm, and the reverse",
    "worse/better": "worse/better: answers with a lower score than in the reference, and with a higher one",
    "down/up": "down/up: answers with a lower score than in the reference, and with a higher one",
    "other": "other: share of answers that differ from the reference's",
    "plausible": "plausible: tokens per step that the mask keeps",
    "changed": "changed: share of steps whose best token differs from the reference",
    "entropy": "entropy: entropy of the combined distribution, in nats",
    "length": "length: tokens per answer, including the end token",
    "forwards": "forwards: forward passes per token; lazy branches save some",
}
"""Explanations of the columns, for a line below the table."""

ALL_FOUR = (
    "right / R→W / W→R / wrong: answers that are right under both the reference and this arm, that change from right "
    "to wrong, that change from wrong to right, and that are wrong under both"
)


def effect_columns(view: RunView, rows: Sequence[DecodingEffect]) -> dict[str, list[str]]:
    """The cells of each column by its heading, for the rows of one subject. Empty columns are dropped."""
    metrics = dict.fromkeys([*(m for m in DEFAULT_METRICS if m in view.metrics), view.metric])
    columns: dict[str, list[str]] = {}
    for metric in metrics:
        columns[metric] = [
            format_estimate(e.mean, e.low, e.high, 3) if (e := row.scores.get(metric)) else "–" for row in rows
        ]
    columns["answers"] = [answers_cell(row) for row in rows]
    graded = any(row.transitions and row.transitions.graded for row in rows)
    moved = "down/up" if view.better == "neither" else "worse/better" if graded else "R→W/W→R"
    columns[moved] = [
        f"{row.transitions.right_to_wrong}/{row.transitions.wrong_to_right}" if row.transitions else "" for row in rows
    ]
    columns["other"] = [_number(row.other, 2) for row in rows]
    columns["plausible"] = [_many(row.plausible_tokens) for row in rows]
    columns["changed"] = [_number(row.changed, 3) for row in rows]
    columns["entropy"] = [_number(row.entropy, 2) for row in rows]
    columns["length"] = [_many(row.length) for row in rows]
    columns["forwards"] = [_many(row.forwards) for row in rows]
    return {name: cells for name, cells in columns.items() if any(cells)}


def answers_cell(row: DecodingEffect) -> str:
    """'yes .62 (.55)': shares of the arm and of the reference. Of a histogram, at most two answers that changed."""
    names = dict.fromkeys([*row.reference_answers, *row.answers])
    if not names:
        return ""
    if set(names) <= {"yes", "no", OTHER_ANSWER}:
        parts = [
            "yes",
            *([OTHER_ANSWER] if row.answers.get(OTHER_ANSWER) or row.reference_answers.get(OTHER_ANSWER) else []),
        ]
    else:
        gap = {name: abs(row.answers.get(name, 0) - row.reference_answers.get(name, 0)) for name in names}
        parts = sorted(names, key=lambda name: (-gap[name], -row.reference_answers.get(name, 0)))[:2]
    return ", ".join(_answer(row, name) for name in parts)


def all_answers_text(row: DecodingEffect) -> str:
    """The whole histogram in words."""
    return ", ".join(_answer(row, name) for name in dict.fromkeys([*row.reference_answers, *row.answers]))


def column_notes(view: RunView, *, whole: bool = False) -> list[str]:
    """Explanations of the columns. whole: whether right/wrong transitions have all four numbers."""
    heads = dict.fromkeys(name for _, rows in group_by_subject(view) for name in effect_columns(view, rows))
    words = {**COLUMN_NOTES, "R→W/W→R": ALL_FOUR} if whole else COLUMN_NOTES
    few = few_units_note(row.scores[view.metric].clusters for row in view.effects if view.metric in row.scores)
    turns = "" if view.of_samples else no_transitions_note(view)
    return [
        *partial_settings_notes(view),
        *(words[name] for name in heads if name in words),
        *filter(None, [turns, few]),
    ]


def partial_settings_notes(view: RunView) -> Iterator[str]:
    """For each arm that lacks settings of the reference, the reference's score in the arm's settings."""
    for subject, rows in group_by_subject(view):
        partial = [row for row in rows if row.over]
        for over, own in groupby(partial, key=lambda row: row.over):
            same = list(own)
            names = join_words([row_label(row).strip(f" *{PARTIAL_MARK}") for row in same])
            on = f" ({subject})" if len({row.subject for row in view.effects}) > 1 else ""
            share = format_share(same[0].against)
            yield f"{PARTIAL_MARK} {names}{on}: only over {over}, where {view.reference} has {share}"


def row_label(row: DecodingEffect) -> str:
    """The label of a row, such as 'vcd' or '  mask_only'.

    A control is indented below its strategy and named without it. A control of several strategies has a star. A dagger
    marks an arm that lacks settings of the reference.
    """
    partly = f" {PARTIAL_MARK}" if row.over else ""
    if row.role != "control":
        return f"{row.decoding}{partly}"
    if not row.of:
        return f"{row.decoding} *{partly}"
    return f"  {row.decoding.replace(f'({row.of})', '')}{partly}"


def group_by_subject(view: RunView) -> Iterator[tuple[str, list[DecodingEffect]]]:
    """The rows of each task and setting."""
    for subject, rows in groupby(view.effects, key=lambda row: row.subject):
        yield subject, list(rows)


def family_note(view: RunView) -> str:
    """'p after Holm over 54 comparisons: every strategy against greedy and against each of its controls'."""
    sizes = {row.judgment.family for row in view.effects if row.judgment}
    if not sizes:
        return ""
    topics = max((t.topics for t in view.comparisons["Decoding"]), default=1)
    shared = f", and over the {topics} topics of the sentences" if topics > 1 else ""
    return (
        f"Verdicts: p after Holm over {format_count(max(sizes), 'comparison')}{shared}: every strategy against "
        f"{view.reference} and against each of its controls, as in the sentences on decoding."
    )


def transition_cell(row: DecodingEffect, view: RunView) -> tuple[str, str]:
    """(cell, explanation) of the transitions: '80 / 4 / 6 / 10' for right/wrong scores, else two numbers."""
    moves = row.transitions
    if moves is None:
        return "", ""
    if moves.graded or view.better == "neither":
        worse, better = ("fell", "rose") if view.better == "neither" else ("got worse", "got better")
        return (
            f"{moves.right_to_wrong} / {moves.wrong_to_right}",
            f"{moves.right_to_wrong} {worse}, {moves.wrong_to_right} {better}, {moves.still_right} are the same",
        )
    text = (
        f"{moves.still_right} right in both, {moves.right_to_wrong} right to wrong, "
        f"{moves.wrong_to_right} wrong to right, {moves.still_wrong} wrong in both"
    )
    return (
        f"{moves.still_right} / {moves.right_to_wrong} / {moves.wrong_to_right} / {moves.still_wrong}",
        text,
    )


def page_sections(view: RunView) -> list[dict[str, Any]]:
    """The tables of the page, one per subject, as headings and cells."""
    sections = []
    for subject, rows in group_by_subject(view):
        columns = effect_columns(view, rows)
        graded = view.better == "neither" or any(row.transitions and row.transitions.graded for row in rows)
        heads, cells = list(columns), list(zip(*columns.values(), strict=True))
        place = next(
            (i for i, name in enumerate(heads) if name in TRANSITION_HEADINGS), None
        )  # a run-level metric has none
        if place is not None:
            heads[place] = MOVED_GRADED[heads[place]] if graded else "right / R→W / W→R / wrong"
        lines = [
            {
                "label": row_label(row).strip(),
                "role": row.role,
                "cells": [
                    transition_cell(row, view)
                    if i == place
                    else (cell, all_answers_text(row) if heads[i] == "answers" else "")
                    for i, cell in enumerate(cells[j])
                ],
                "verdict": row.judgment,
            }
            for j, row in enumerate(rows)
        ]
        sections.append({"subject": subject, "heads": heads, "rows": lines})
    return sections


def controls_frame(view: RunView) -> "DataFrame":
    """One row per arm, with numbers: for tables/controls.csv."""
    import pandas as pd

    return pd.DataFrame([_flat(row) for row in view.effects])


def print_controls(view: RunView, console: "Console") -> None:
    """Prints one table per subject, its verdicts, and explanations of the columns."""
    from rich.text import Text

    for subject, rows in group_by_subject(view):
        console.print(Text(subject, "bold").append(f"  {view.measure}; controls under their strategy", "dim"))
        columns = effect_columns(view, rows)
        names = [row_label(row) for row in rows]
        for block in _blocks(columns, max(map(len, names)), console.width):
            _print_block(names, rows, block, console)
        _print_verdicts(rows, console)
    shared = "*: a control of several strategies" if any(_is_shared(row) for row in view.effects) else ""
    for words in [shared, *column_notes(view), family_note(view)]:
        if words:
            console.print(words, style="dim", highlight=False)


def _print_verdicts(rows: Sequence[DecodingEffect], console: "Console") -> None:
    from rich.table import Table
    from rich.text import Text

    judged = [(row.decoding, row.judgment) for row in rows if row.judgment]
    if not judged:
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for name, judgment in judged:
        look = {"better": "green", "worse": "red"}.get(judgment.verdict, "default")
        grid.add_row(Text(f"  {name}"), Text(judgment.words, look))
    console.print(Text("Does it beat all its controls?", "bold"))
    console.print(grid)
    console.print()


def _is_shared(row: DecodingEffect) -> bool:
    return row.role == "control" and not row.of


def _blocks(columns: Mapping[str, Sequence[str]], first: int, width: int) -> Iterator[dict[str, Sequence[str]]]:
    """The columns in blocks that fit the width next to the names."""
    block: dict[str, Sequence[str]] = {}
    used = first
    for name, cells in columns.items():
        wide = GAP + max(len(name), *map(len, cells))
        if block and used + wide > width:
            yield block
            block, used = {}, first
        block[name] = cells
        used += wide
    if block:
        yield block


def _print_block(
    names: Sequence[str], rows: Sequence[DecodingEffect], block: Mapping[str, Sequence[str]], console: "Console"
) -> None:
    from rich.text import Text

    first = max(map(len, names))
    widths = {name: max(len(name), *map(len, cells)) for name, cells in block.items()}

    def line(name: str, cells: Mapping[str, str], look: str) -> "Text":
        text = "".join(" " * GAP + cells[key].rjust(width) for key, width in widths.items())
        return Text(f"{name.ljust(first)}{text}".rstrip(), look)

    console.print(line("", {name: name for name in block}, "dim"), soft_wrap=True)
    for i, row in enumerate(rows):
        look = "dim" if row.role == "control" else ""
        console.print(line(names[i], {name: cells[i] for name, cells in block.items()}, look), soft_wrap=True)
    console.print()


def _answer(row: DecodingEffect, name: str) -> str:
    before = "" if row.role == "reference" else f" ({format_share(row.reference_answers.get(name, 0.0), 2)})"
    return f"{name} {format_share(row.answers.get(name, 0.0), 2)}{before}"


def _flat(row: DecodingEffect) -> dict[str, Any]:
    cells: dict[str, Any] = {"subject": row.subject, "decoding": row.decoding, "role": row.role, "of": row.of}
    for metric, estimate in row.scores.items():
        cells |= {metric: estimate.mean, f"{metric}_low": estimate.low, f"{metric}_high": estimate.high}
    for name in dict.fromkeys([*row.reference_answers, *row.answers]):
        cells |= {
            f"answers:{name}": row.answers.get(name, 0.0),
            f"reference_answers:{name}": row.reference_answers.get(name, 0.0),
        }
    if row.transitions:
        moved = row.transitions
        cells |= {
            "still_right": moved.still_right,
            "right_to_wrong": moved.right_to_wrong,
            "wrong_to_right": moved.wrong_to_right,
            "still_wrong": moved.still_wrong,
        }
    for name in ("other", "plausible_tokens", "changed", "entropy", "length", "forwards", "samples"):
        cells[name] = getattr(row, name)
    if row.judgment:
        cells |= {"verdict": row.judgment.words, "family": row.judgment.family}
    return cells


def _number(value: float, digits: int) -> str:
    return "" if isnan(value) else format_share(value, digits)


def _many(value: float) -> str:
    """A count with as many digits as it needs: '1.3', '475'."""
    return (
        "" if isnan(value) else f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    )
