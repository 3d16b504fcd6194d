"""The report of a run: the answer on the first screen, then a section for each result, then the samples."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.report import sample_browser
from experiments.report.rendering import load_template, policy_digest, read_asset
from experiments.report.section import Column, Section
from experiments.report.sections.analyses import analysis_sections, own_sections
from experiments.report.sections.controls import controls_section
from experiments.report.sections.costs import costs_sections
from experiments.report.sections.differences import by_sections, differences_section
from experiments.report.sections.headline import findings_section, headline, looks_section
from experiments.report.sections.scores import curves_section, other_scores, scores_section
from experiments.results import Run, RunView, available_columns, column_values, is_unremarkable
from experiments.results.view_run import view_run
from experiments.stats import NARROW, deciding_digests, formatting, iter_arms
from experiments.store.store import refuse_links, report_write_errors, write_csv, write_text
from icl import ConfigError, DataFrame, did_you_mean, pd


def sections(view: RunView) -> list[Section]:
    """The sections of a run, in the order of the page. `icl show RUN NAME` prints one."""
    own = list(own_sections(view))
    made = [
        *own,
        scores_section(view),
        *by_sections(view),
        findings_section(view),
        looks_section(view),
        differences_section(view),
        controls_section(view),
        answers_section(view),
        *analysis_sections(view, [one.name for one in own]),
        curves_section(view),
        *other_scores(view),
        *costs_sections(view),
    ]
    some = [one for one in made if one]
    names = file_names([one.name for one in some])
    # A new section draws its figure again, so only where a name changes.
    return [one if one.name == name else replace(one, name=name) for one, name in zip(some, names, strict=True)]


@dataclass(frozen=True)
class ReportFiles:
    """The files that `write_report` wrote into the run directory. frames: name -> the content of each table."""

    report: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    frames: Mapping[str, DataFrame]


def write_report(run: Run | RunView, per_cell: int = sample_browser.QUERIES_PER_TASK) -> ReportFiles:
    """Writes report.html, and the table and figure of each section: tables/NAME.csv, figures/NAME.svg.

    Raises:
        StoreError: The run has no samples, or a file cannot be written or is a link.
        ConfigError: The run's config does not fit its samples.
    """
    view = run if isinstance(run, RunView) else view_run(run)
    refuse_links(view.path)
    made = sections(view)
    report = view.path / "report.html"
    write_text(report, render_page(view, made, per_cell))
    for folder in ("tables", "figures"):
        with report_write_errors(view.path / folder):
            (view.path / folder).mkdir(exist_ok=True)
    frames = {one.name: one.frame for one in made if one.frame is not None}
    for name, frame in frames.items():
        write_csv(view.path / "tables" / f"{name}.csv", frame)
    figures = [
        path for one in made if one.figure for path in one.figure.write(view.path / "figures" / one.name, ["svg"])
    ]
    return ReportFiles(report, tuple(view.path / "tables" / f"{name}.csv" for name in frames), tuple(figures), frames)


def render_page(view: RunView, made: Sequence[Section], per_cell: int) -> str:
    """The page as text."""
    from markupsafe import Markup

    shelf = sample_browser.collect_samples(view, per_cell)
    script, style = read_asset("report.js") + read_asset("page.js"), read_asset("report.css") + read_asset("page.css")
    undecided = [sentence for sentence, is_warning in view.probes.items() if is_warning]
    return load_template("page.html.j2").render(
        name=view.name,
        subtitle=_subtitle(view),
        warnings=[w.rstrip(".") for w in (view.unfinished, view.mixed_versions, *undecided, *view.answer_notes) if w],
        answer=headline(view),
        measure=view.measure[0].upper() + view.measure[1:],
        previews=prompt_previews(view, shelf),
        sections=made,
        draw=lambda figure: [(title, Markup(svg)) for title, svg in figure.page()],
        shelf_note=_shelf_note(view, shelf),
        data=Markup(_json(shelf.json(view))),
        record=json.dumps(view.info, indent=1, ensure_ascii=False, default=repr),
        script=Markup(script),
        style=Markup(style),
        script_hash=policy_digest(script),
        style_hash=policy_digest(style),
    )


def find_section(view: RunView, name: str) -> Section:
    """The section of a name, or of a title such as 'by-is_even'. Raises ConfigError with the names that the run has."""
    made = {one.name: one for one in [headline(view), *sections(view)]}
    if (own := name if name in made else _slug(name)) not in made:
        raise ConfigError(f"the run has no section '{name}'.{did_you_mean(name, made)} Sections: {', '.join(made)}.")
    return made[own]


def view_by_section(view: RunView, name: str) -> RunView:
    """The view by the column of a section 'by-COLUMN' or 'effects-COLUMN'; by its own columns for other sections.

    Raises:
        ConfigError: The data have no such column, or one that no table can be divided by.
    """
    part, _, column = name.partition("-")
    if not column or part not in ("by", "effects"):
        return view
    same = [one for one in available_columns(view.frame, view.axes) if _slug(one) == _slug(column)]
    chosen = column if column in same or not same else same[0]
    column_values(view.frame, chosen, view.axes)  # raises ConfigError
    return replace(view, by=(chosen,))


@dataclass(frozen=True)
class PromptPreview:
    """One prompt. pieces: ('text', the text) or ('image', a data URI)."""

    task: str
    arm: str
    pieces: list[tuple[str, str]]
    output: str
    gold: str
    is_right: bool


def prompt_previews(view: RunView, shelf: sample_browser.BrowserData, limit: int = 2) -> list[PromptPreview]:
    """For each task, the first query under the reference at the fewest demonstrations."""
    axes = list(view.axes)
    arms = {number: dict(zip(axes, arm, strict=True)) for arm, number in shelf.arms.items()}
    previews: list[PromptPreview] = []
    for task in view.tasks:
        own: list[dict[str, Any]] = [s for s in shelf.samples if arms[s["arm"]]["task"] == task and s.get("output")]
        usual = [s for s in own if arms[s["arm"]].get("decoding", view.reference) == view.reference] or own
        shot = [s for s in usual if arms[s["arm"]]["shots"]] or usual
        if not shot or len(previews) == limit:
            continue
        one = min(shot, key=lambda s: (arms[s["arm"]]["shots"], -s["arm"]))
        context, arm = shelf.contexts[one["context"]], arms[one["arm"]]
        images = iter(context["images"])
        pieces: list[tuple[str, str]] = []
        for place, text in enumerate(context["prompt"]):
            if place and (uri := shelf.images.get(next(images, ""))):
                pieces.append(("image", uri))
            pieces.append(("text", text))
        named = f"{arm['retriever']}, {arm['shots']} shots, {arm['decoding']}"
        right, gold = one.get("score") == 1, ", ".join(one["gold"])
        previews.append(PromptPreview(task, named, pieces, one["output"], gold, right))
    return previews


def _subtitle(view: RunView) -> str:
    fixed = [f"{axis} {value}" for axis, value in view.fixed.items() if value != "none"]
    sizes = [(len(view.frame), "sample"), (len(view.tasks), "task"), (view.seeds, "seed")]
    return " · ".join([*(formatting.format_count(number, word) for number, word in sizes), *fixed])


def _shelf_note(view: RunView, shelf: sample_browser.BrowserData) -> str:
    some = [
        f"{carried} of {all_:,} queries of {task}"
        for task, (carried, all_) in shelf.query_counts.items()
        if carried < all_
    ]
    lost = sum(1 for uri in shelf.images.values() if uri is None)
    missing = f" {formatting.format_count(lost, 'image')} missing or too many for the file." if lost else ""
    if not some:
        return f"Every query of the run, under every arm and seed.{missing}"
    return (
        f"This file contains {formatting.join_words(some)}, each under every arm and seed. Half of them are the "
        "queries on which the arms disagree most; the other half is random. Shares in this selection mean nothing; "
        f"the tables use all samples.{missing}"
    )


def _json(tree: Any) -> str:
    """JSON that is safe in a script element: it has no '<', '>' or '&'. NaN, which facts may be, is null."""
    try:
        text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    except ValueError:
        tree = _with_nulls(tree)
        text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _with_nulls(tree: Any) -> Any:
    """The tree with None for numbers that JSON does not have."""
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else None
    if isinstance(tree, Mapping):
        return {key: _with_nulls(value) for key, value in tree.items()}
    return [_with_nulls(value) for value in tree] if isinstance(tree, list | tuple) else tree


def file_names(titles: Sequence[str]) -> list[str]:
    """A file name without ending for each title: its letters and digits. Equal names get a number."""
    names: dict[str, None] = {}
    for place, title in enumerate(titles):
        name = _slug(title) or str(place)
        number = next(n for n in itertools.count(1) if (name if n == 1 else f"{name}-{n}") not in names)
        names[name if number == 1 else f"{name}-{number}"] = None
    return list(names)


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


SHARES = {"unread": "unread", "unparsed": "no answer", "cut_answer": "answer cut", "cut_thinking": "thinking cut"}


def answers_section(view: RunView) -> Section | None:
    """A row for each arm. An arm is hidden if its answers are another arm's by construction."""
    if not (arms := view.arm_answers):
        return None
    axes = list(arms[0].arm)
    decided = {tuple(arm[x] for x in axes): deciding_digests(own) for arm, own in iter_arms(view.scores, axes)}
    frame = pd.DataFrame([{**one.arm, **vars(one), "forms": one.wrapping} for one in arms])
    frame = frame[[*axes, "count", "strict", "lenient", *SHARES, "forms"]]
    keys = pd.Series([decided.get(tuple(one.arm[x] for x in axes)) or place for place, one in enumerate(arms)])
    frame["repeated"] = keys.duplicated()
    visible = frame[~frame["repeated"]]
    labels = [axis for axis in axes if axis != "task" and visible[axis].nunique() > 1] or axes[-1:]
    shares = [name for name in SHARES if name == "unparsed" or visible[name].gt(0).any()]
    columns = [
        *map(Column, labels),
        Column("strict", kind="share"),
        Column("lenient", kind="share"),
        *(Column(name, SHARES[name], "share") for name in shares),
        Column("forms"),
    ]
    notes = [
        "strict: the whole output is an accepted answer. lenient: the output gives one in any form. answer cut: it "
        "ended at max_new_tokens.",
        f"unread: lenient may be wrong about these outputs. Above {100 * NARROW:.0f} % its mean says nothing and is "
        "left out."
        if "unread" in shares
        else "",
        "Arms with the answers of another by construction are left out." if frame["repeated"].any() else "",
    ]
    summary = f"All arms write their answers alike ({arms[0].wrapping}), and every output gives an answer."
    folded = (
        summary if is_unremarkable(arms) else "; ".join(view.answer_notes) or "The arms write their answers differently"
    )
    return Section(
        "answers", "Answers", frame=frame, columns=columns, parts="task", hidden="repeated", notes=notes, folded=folded
    )
