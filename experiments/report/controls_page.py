"""The table of controls as a Markdown page: the config, the results as sentences, and a table per task.

Everything is read from the run, so the same command writes the page again for another model or more queries. Only
strategies and the arms that all of them are compared with have rows; `tables/controls.csv` has every control.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isnan

from experiments.report.comparison import no_transitions_note
from experiments.report.controls import (
    PARTIAL_MARK,
    answers_cell,
    family_note,
    group_by_subject,
    partial_settings_notes,
)
from experiments.results.run_view import RunView
from experiments.stats.arms import better_of
from experiments.stats.decoding_effects import DecodingEffect
from experiments.stats.formatting import format_count, format_estimate, format_share, join_words
from experiments.store.invocations import read_invocations
from experiments.store.store import Store
from icl.errors import strip_control_characters

READ = (
    "A control is the same computation without the key idea: only the mask, only the hidden temperature, noise "
    "of the same "
    "size, the shift with the opposite sign, another sample or nothing as the negative branch, or the reference at the "
    "same cost. If a strategy does not beat all of its controls, its gain over the reference is not evidence for its "
    "idea. 'Not distinguishable' does not mean 'equal': the intervals show how large a difference could be. The "
    "results hold for this model and these tasks only."
)
COLUMNS = (
    "± is half of the 95 % interval; [low, high] is used where the score is not the center. Survivors: tokens per "
    "step that the mask keeps. Changed: share of steps whose best token differs from the reference. Length: tokens per "
    "answer. Best control: of the strategy's own controls, by the same score."
)


def render_controls_page(view: RunView) -> str:
    """The page as Markdown: first by the metric of comparisons, then by the other metrics that are not accuracies."""
    others = [
        m
        for m in view.metrics
        if m != view.metric
        and m not in view.accuracies
        and view.scores[m].notna().any()
        and better_of(view.scores, m) != "neither"
    ]
    views = [view, *(replace(view, metric=metric) for metric in others)]
    return "\n".join(line for part in ([*_head(view), *_summary(views)], _tables(views)) for line in part)


def _head(view: RunView) -> Iterator[str]:
    tasks = [f"{task} ({format_count(queries, 'query', 'queries')})" for task, queries in _queries(view).items()]
    shots = join_words([str(k) for k in sorted(set(view.scores["shots"]))])
    yield f"# {_plain(view.name)}: each decoding strategy next to its controls"
    yield ""
    yield f"    icl run {_plain(view.info.get('file', 'FILE'))}"
    yield f"    icl compare runs/{_plain(view.name)} --controls"
    yield ""
    sizes = f"at {shots} shots, {format_count(view.seeds, 'seed')}"
    yield f"{format_count(len(view.frame), 'sample')}: {join_words(list(map(_plain, tasks)))}, {sizes}."
    yield _models(view)
    yield ""
    yield READ
    yield ""


def _summary(views: Sequence[RunView]) -> Iterator[str]:
    yield "## What it shows"
    yield ""
    for view in views:
        rows = [row for row in view.effects if row.judgment]
        if rows:
            yield f"- **{view.measure}.** {_counted(view, rows)}"
    yield ""


def _counted(view: RunView, rows: Sequence[DecodingEffect]) -> str:
    """The number of each verdict, with the names of the strategies."""
    words = {id(row): row.judgment.words for row in rows if row.judgment}
    groups = {
        f"beat {view.reference} and all their controls": [r for r in rows if words[id(r)].startswith("yes")],
        f"beat {view.reference}, and not all their controls": [
            r for r in rows if words[id(r)].startswith("no: beats " + view.reference)
        ],
        f"are worse than {view.reference}": [r for r in rows if "is worse than" in words[id(r)]],
        f"always score the same as {view.reference}": [r for r in rows if "always scores the same" in words[id(r)]],
    }
    parts = [f"Of {format_count(len(rows), 'pair')} of a strategy and a task"]
    for what, members in groups.items():
        names = "" if not members or "always" in what else f" ({'; '.join(_named(members))})"
        parts.append(f"{len(members)} {what}{names}")
    rest = len(rows) - sum(map(len, groups.values()))
    parts.append(f"the other {rest} are not distinguishable from it")
    return f"{', '.join(parts)}. {family_note(view)}"


def _named(rows: Sequence[DecodingEffect]) -> list[str]:
    """'vcd on captions and binding': each strategy once."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row.decoding, []).append(row.subject)
    return [f"`{name}` on {join_words(list(map(_plain, subjects)))}" for name, subjects in groups.items()]


def _tables(views: Sequence[RunView]) -> Iterator[str]:
    yield "## Tables"
    yield ""
    yield COLUMNS
    yield ""
    for view in views:
        for subject, rows in group_by_subject(view):
            yield f"### {_plain(subject)}: {view.measure}"
            yield ""
            yield from _table(view, rows)
            yield ""
        for line in partial_settings_notes(view):
            yield f"{_plain(line)}."
            yield ""
        if not view.of_samples:
            yield f"{_sentence(no_transitions_note(view))}."
            yield ""


def _table(view: RunView, rows: Sequence[DecodingEffect]) -> Iterator[str]:
    named = {row.decoding: row for row in rows}
    visible = [row for row in rows if row.role != "control" or not row.of]
    has_answers = any(row.answers for row in visible)
    moved = "worse / better" if any(row.transitions and row.transitions.graded for row in visible) else "R→W / W→R"
    turned = any(row.transitions for row in visible)
    heads = ["decoding", view.metric, *(["answers"] if has_answers else []), *([moved] if turned else [])]
    heads += ["plausible", "changed", "length"]
    yield _line([*heads, "best control", f"beats {view.reference} and all its controls?"])
    yield _line(["---"] * (len(heads) + 2))
    for row in visible:
        estimate = row.scores.get(view.metric)
        cells = [f"`{row.decoding}`{' (control)' if row.role == 'control' else ''}{_mark(row)}"]
        cells.append(format_estimate(estimate.mean, estimate.low, estimate.high) if estimate else "–")
        cells += [answers_cell(row)] if has_answers else []
        cells += (
            [f"{row.transitions.right_to_wrong} / {row.transitions.wrong_to_right}" if row.transitions else ""]
            if turned
            else []
        )
        cells += [
            _number(row.plausible_tokens, 1),
            "" if isnan(row.changed) else format_share(row.changed),
            _number(row.length, 1),
            _best(view, row, named),
        ]
        yield _line([*cells, row.judgment.words if row.judgment else ""])


def _best(view: RunView, row: DecodingEffect, named: Mapping[str, DecodingEffect]) -> str:
    own = [named[c] for c in view.controls.get(row.decoding, ()) if c in named and c != view.reference]
    means = [(c.scores[view.metric].mean, f"{c.decoding}{_mark(c)}") for c in own if view.metric in c.scores]
    if not means:
        return ""
    mean, name = min(means) if view.better == "lower" else max(means)
    return f"{name.replace(f'({row.decoding})', '')} {format_share(mean)}"


def _mark(row: DecodingEffect) -> str:
    return f" {PARTIAL_MARK}" if row.over else ""


def _queries(view: RunView) -> dict[str, int]:
    counts = view.scores.groupby("task", sort=False)["query"].nunique()
    return {str(task): int(count) for task, count in counts.items()}


def _models(view: RunView) -> str:
    """The models by name and digest (equal digests give equal outputs), and the commit of the code."""
    cells = [Store(view.path).read_cell(str(digest)) or {} for digest in dict.fromkeys(view.frame["cell"])]
    model_names = dict.fromkeys(
        (str((c.get("labels") or {}).get("model")), str(c.get("model_digest", ""))[:12]) for c in cells
    )
    models = join_words([f"`{_plain(name)}` (digest {digest})" for name, digest in model_names])
    records = read_invocations(Store(view.path))
    versions = records[max(records)].get("versions", {}) if records else {}
    used = [f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions]
    return " ".join(filter(None, [f"Model: {'; '.join([models, *used])}.", view.mixed_versions]))


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_plain(cell).replace('|', '/') for cell in cells)} |"


def _number(value: float, digits: int) -> str:
    return "" if isnan(value) else f"{value:,.0f}" if value >= 100 else f"{value:.{digits}f}"


def _plain(text: object) -> str:
    """The text on one line and without Markdown."""
    return strip_control_characters(str(text)).replace("\n", " ").replace("<", "&lt;")
