"""Controls: each strategy next to the same computation without its key idea."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from experiments.config.keys import DEFAULT_METRICS
from experiments.report.section import Column, Section, Sentence
from experiments.report.sections.differences import MOVES, no_moves_note
from experiments.results.run_view import RunView
from experiments.stats import DecodingEffect, few_units_note, format_count, format_share, join_words
from experiments.stats.decoding_effects import OTHER_ANSWER
from icl import DataFrame, pd

PARTIAL_MARK = "†"
"""Marks an arm that lacks settings of the reference."""
NUMBERS = {
    "right_to_wrong": "answers that are right under the reference and wrong here (graded: with a lower score here)",
    "wrong_to_right": "answers that are wrong under the reference and right here (graded: with a higher score here)",
    "other": "share of answers that differ from the reference's",
    "plausible_tokens": "tokens per step that the mask keeps",
    "changed": "share of steps whose best token differs from the reference's",
    "entropy": "entropy of the combined distribution, in nats",
    "length": "tokens per answer, including the end token",
    "forwards": "forward passes per token; lazy branches save some",
}
"""Column -> what it means."""
SHARES = ("other", "changed", "entropy")


def controls_section(view: RunView) -> Section | None:
    """The effects of the decodings on the answers, with a verdict on each strategy; None for a single decoding."""
    if not view.effects:
        return None
    frame = controls_frame(view)
    frame["label"], frame["answers"] = (
        [row_label(row) for row in view.effects],
        [answers_cell(row) for row in view.effects],
    )
    frame["control"] = frame["role"].eq("control")
    frame["sure"] = [bool(e.judgment and e.judgment.verdict in ("better", "worse")) for e in view.effects]
    graded = any(row.transitions and row.transitions.graded for row in view.effects)
    moves = MOVES["neither" if view.better == "neither" else "graded" if graded else "accuracy"]
    heads = {"plausible_tokens": "plausible", **dict(zip(("right_to_wrong", "wrong_to_right"), moves, strict=True))}
    metrics = [m for m in dict.fromkeys([*DEFAULT_METRICS, view.metric]) if m in frame and m in view.metrics]
    every = "mean over all numbers of shots and retrievers"
    columns = [
        Column("label", "decoding"),
        *(
            Column(m, m, "estimate", (f"{m}_low", f"{m}_high"), every, bold="sure" * (m == view.metric))
            for m in metrics
        ),
        Column("answers"),
        *(
            Column(name, heads.get(name, name), "share" if name in SHARES else "count", says=says)
            for name, says in NUMBERS.items()
            if name in frame and frame[name].nunique() > 1
        ),
    ]
    return Section(
        "controls", "Controls", list(_judged(view)), frame, columns, parts="subject", faint="control",
        notes=list(_notes(view)), folded="; ".join(dict.fromkeys(one.claim for one in control_sentences(view)))
        or "The effect of each decoding on the answers",
    )  # fmt: skip


def control_sentences(view: RunView) -> Iterator[Sentence]:
    """'vcd beats 0 of 2 controls': a sentence for each strategy and task, with the control that is closest."""
    for strategy, controls in view.controls.items():
        for subject in dict.fromkeys(row.subject for row in view.effects):
            own = [
                c
                for c in view.comparisons["Decoding"]
                if (c.subject, c.arm) == (subject, strategy) and c.against in controls
            ]
            tested = [c for c in own if c.result is not None]
            if tested:
                beaten = sum(c.verdict == "better" for c in own)
                closest = min(tested, key=lambda c: abs(c.result.difference) if c.result else 0)
                yield Sentence(
                    f"{strategy} beats {beaten} of {format_count(len(own), 'control')}",
                    f"({subject}; the closest, {closest.against}: {closest.size})",
                    "better" if beaten == len(own) else "open",
                )


def _judged(view: RunView) -> Iterator[Sentence]:
    """Whether each strategy beats the reference and all its controls."""
    for row in view.effects:
        if row.judgment:
            yield Sentence(f"{row.subject}, {row.decoding}: {row.judgment.words}.", "", row.judgment.verdict)


def _notes(view: RunView) -> Iterator[str]:
    yield (
        "A control is the same computation without the key idea of its strategy. A strategy that does not beat all of "
        "its controls has not shown that its idea helps."
    )
    yield from partial_settings_notes(view)
    if any(row.role == "control" and not row.of for row in view.effects):
        yield "*: a control of several strategies."
    if sizes := {row.judgment.family for row in view.effects if row.judgment}:
        topics = max((t.topics for t in view.comparisons["Decoding"]), default=1)
        shared = f", and over the {topics} topics of the sentences" if topics > 1 else ""
        yield (
            f"Verdicts: p after Holm over {format_count(max(sizes), 'comparison')}{shared}: every strategy against "
            f"{view.reference} and against each of its controls, as in the sentences on decoding."
        )
    if any(row.reference_answers or row.answers for row in view.effects):
        yield "answers: share of each answer here (and under the reference); other: not one of the options."
    yield "; ".join(f"{name.replace('_', ' ')}: {says}" for name, says in NUMBERS.items())
    yield "" if view.of_samples else no_moves_note(view)
    yield few_units_note(row.scores[view.metric].clusters for row in view.effects if view.metric in row.scores)


def partial_settings_notes(view: RunView) -> Iterator[str]:
    """For each arm that lacks settings of the reference, the reference's score in the arm's settings."""
    several = len({row.subject for row in view.effects}) > 1
    partial = [row for row in view.effects if row.over]
    for (subject, over), own in groupby(partial, key=lambda row: (row.subject, row.over)):
        same = list(own)
        names = join_words([row_label(row).strip(f" *{PARTIAL_MARK}") for row in same])
        on, share = f" ({subject})" if several else "", same[0].against
        yield f"{PARTIAL_MARK} {names}{on}: only over {over}, where {view.reference} has {share}"


def row_label(row: DecodingEffect) -> str:
    """The label of a row, such as 'vcd' or '· mask_only'.

    A control follows its strategy and is named without it. A control of several strategies has a star. A dagger marks
    an arm that lacks settings of the reference.
    """
    name = row.decoding
    if row.role == "control":
        name = f"· {name.replace(f'({row.of})', '')}" if row.of else f"{name} *"
    return f"{name} {PARTIAL_MARK}" if row.over else name


def answers_cell(row: DecodingEffect) -> str:
    """'yes .62 (.55)': shares of the arm and of the reference. Of a histogram, at most two answers that changed."""
    names = dict.fromkeys([*row.reference_answers, *row.answers])
    if not names:
        return ""
    if set(names) <= {"yes", "no", OTHER_ANSWER}:
        other = row.answers.get(OTHER_ANSWER) or row.reference_answers.get(OTHER_ANSWER)
        parts = ["yes", *([OTHER_ANSWER] if other else [])]
    else:
        gap = {name: abs(row.answers.get(name, 0) - row.reference_answers.get(name, 0)) for name in names}
        parts = sorted(names, key=lambda name: (-gap[name], -row.reference_answers.get(name, 0)))[:2]
    return ", ".join(_answer(row, name) for name in parts)


def _answer(row: DecodingEffect, name: str) -> str:
    before = "" if row.role == "reference" else f" ({format_share(row.reference_answers.get(name, 0.0), 2)})"
    return f"{name} {format_share(row.answers.get(name, 0.0), 2)}{before}"


def controls_frame(view: RunView) -> DataFrame:
    """One row per arm, with numbers."""
    return pd.DataFrame([_flat(row) for row in view.effects])


def _flat(row: DecodingEffect) -> dict[str, Any]:
    cells: dict[str, Any] = {"subject": row.subject, "decoding": row.decoding, "role": row.role, "of": row.of}
    for metric, estimate in row.scores.items():
        cells |= {metric: estimate.mean, f"{metric}_low": estimate.low, f"{metric}_high": estimate.high}
    for metric, bounds in row.bounds.items():
        cells |= {f"{metric}_{name}": value for name, value in bounds.columns.items()}
    for name in dict.fromkeys([*row.reference_answers, *row.answers]):
        here, there = row.answers.get(name, 0.0), row.reference_answers.get(name, 0.0)
        cells |= {f"answers:{name}": here, f"reference_answers:{name}": there}
    if moved := row.transitions:
        cells |= {"still_right": moved.still_right, "right_to_wrong": moved.right_to_wrong}
        cells |= {"wrong_to_right": moved.wrong_to_right, "still_wrong": moved.still_wrong}
    for name in ("other", "plausible_tokens", "changed", "entropy", "length", "forwards", "samples"):
        cells[name] = getattr(row, name)
    if row.judgment:
        cells |= {"verdict": row.judgment.words, "family": row.judgment.family}
    return cells
