"""The first screen: the question of the run, an answer to each part of it, and what the run could have found."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from math import nan

from experiments.report.figure import Figure
from experiments.report.section import Column, Section, Sentence
from experiments.report.sections.controls import control_sentences
from experiments.report.sections.scores import scores_section
from experiments.results.run_view import RunView
from experiments.stats import ArmComparison, Finding, is_wide, smallest_detectable_difference
from experiments.stats.formatting import (
    format_count,
    format_interval,
    format_p,
    format_share,
    join_words,
)
from experiments.stopping.findings import looks_frame
from icl import pd

DETECTABLE = 1.4
"""The difference that is found with 80 % power, in half widths of the interval: 1 + .84 / z, and z is 2 to 3."""
MAX_SENTENCES = 3
WORDS = {
    "better": "Yes",
    "worse": "No, it hurts",
    "differs": "It differs",
    "undecided": "Undecided",
    "open": "Not shown",
    "unpaired": "Not compared",
}
NEWS = ("better", "worse", "differs", "undecided", "open", "unpaired")
"""The order in which verdicts are told."""


@lru_cache(maxsize=4)
def headline(view: RunView) -> Section:
    """The question as the title, a sentence for each part of it, and the figure of the scores."""
    scores = scores_section(view)
    section = Section("answer", view.name, frame=scores.frame, draw=lambda _: _figure(view, scores.figure))
    if view.is_sequential:  # its comparisons are those of looks
        sentences = [Sentence(f"{f.subject}: {f.claim}", f.numbers, f.verdict, f.topic) for f in view.findings]
        rest = len(sentences) - MAX_SENTENCES
        more = f"{format_count(rest, 'further comparison')}: icl show {view.path} findings" if rest > 0 else ""
        notes = [view.sequential_note, view.scores_note, more]
        return replace(section, sentences=sentences[:MAX_SENTENCES], notes=notes)
    parts = (_demonstrations, _retrieval, _decoding, _interventions)
    sentences = [one for ask in parts if (one := ask(view))]
    notes = [*map(_note, _limits(view).values()), _size(view), view.scores_note]
    return replace(section, title=_question(view), sentences=sentences, notes=notes)


def findings_section(view: RunView) -> Section | None:
    """Every sentence about the run, and every comparison behind the sentences."""
    sentences = [
        Sentence(
            f"{one.subject}: {one.claim}", f"{one.numbers}{'. ' * bool(one.numbers)}{one.more}", one.verdict, one.topic
        )
        for one in view.findings
    ]
    if view.is_sequential:
        notes = ["p and [95 % interval] hold at any time, however often you look at the run.", view.sequential_note]
        return Section("findings", "What it shows", sentences, notes=notes) if sentences else None
    rows = [
        {"question": topic, "task": c.subject, "arm": c.arm, "against": c.against, "over": c.pooled, "score": c.mean}
        | {**vars(c.result), "p": c.p, "sure": c.verdict in ("better", "worse", "differs", "equal")}
        | (_range(c) if c.bounds else {})
        for topic, own in view.comparisons.items()
        for c in own
        if c.result and not c.by_construction
    ]
    if not rows and not sentences:
        return None
    columns = [
        *map(Column, ("task", "arm", "against")),
        Column("over", spare=9),
        Column("score", kind="share", spare=2),
        Column("difference", kind="signed", bold="sure"),
        *(
            [Column("range", kind="number"), Column("unread", kind="share")]
            if any("range" in row for row in rows)
            else []
        ),
        Column("low", "95 % interval", "interval"),
        Column("p", kind="p"),
    ]
    number = sum(bool(row["sure"]) for row in rows)
    note = (
        f"Differences in {view.measure}. p and intervals are corrected together: 0 is outside an interval exactly if p "
        "is at most .05. P-values are Holm-corrected within a question, and the questions split the 5 % error rate. If "
        "no arm truly differed, at most 5 % of reports would claim a difference."
    )
    return Section(
        "findings", "What it shows", sentences, pd.DataFrame(rows) if rows else None, columns if rows else (),
        parts="question", notes=[note],
        folded=f"{number} of {format_count(len(rows), 'comparison')} differ{'s' if number == 1 else ''}",
    )  # fmt: skip


def _range(one: ArmComparison) -> dict[str, object]:
    """The columns of a comparison with unread outputs. If these are many, no single number says anything."""
    assert one.bounds is not None
    facts: dict[str, object] = {"range": one.size, "unread": one.bounds.unread}
    facts |= {"p": nan} if one.verdict == "undecided" else {}
    return facts | ({"score": nan, "difference": nan} if is_wide(one.bounds.unread) else {})


def looks_section(view: RunView) -> Section | None:
    """The comparisons of a run with `stop`, as they stand after the last look."""
    if not view.families:
        return None
    frame = looks_frame(view.families, {view.metric: view.better})
    columns = [
        *map(Column, ("task", "arm", "reference", "verdict", "end")),
        Column("look", kind="count"),
        Column("clusters", kind="count", spare=1),
        Column("difference", kind="signed"),
        Column("low", "95 % interval", "interval"),
        Column("p", kind="p"),
        Column("chance", "chance of a verdict", "share", spare=2),
    ]
    return Section("looks", "Looks", frame=frame, columns=columns, notes=["p and intervals hold at any time."])


def _limits(view: RunView) -> dict[str, Finding]:
    """The task -> the sentence why its arms cannot differ, or why its scores say little."""
    return {one.subject: one for one in view.findings if one.topic == "Answers"}


def _note(one: Finding) -> str:
    return f"{one.subject}: {one.sentence}"


def _figure(view: RunView, figure: Figure | None) -> Figure:
    """The panels of tasks that can show a difference first."""
    assert figure is not None
    limits = () if view.is_sequential else _limits(view)
    order = sorted(figure.panels, key=lambda title: any(title.startswith(task) for task in limits))
    return replace(figure, panels={title: figure.panels[title] for title in order})


def _question(view: RunView) -> str:
    parts = ["demonstrations"] if view.scores["shots"].nunique() > 1 else []
    if view.comparisons.get("Retrieval"):
        parts.append("their retrieval" if parts else "retrieval")
    parts += list(view.controls) or list(dict.fromkeys(c.arm for c in view.comparisons.get("Decoding", [])))[:2]
    parts += list(dict.fromkeys(c.arm for c in view.comparisons.get("Intervention", [])))[:2]
    models = [str(m) for m in dict.fromkeys(view.scores["model"])] if "model" in view.scores else ["the model"]
    verb = "Does" if len(parts) == 1 and parts != ["demonstrations"] else "Do"
    return f"{verb} {join_words(parts)} help {join_words(models)} on {join_words(view.tasks)}?" if parts else view.name


def _demonstrations(view: RunView) -> Sentence | None:
    best = [_best(own) for _, own in _by_task(view, "ICL gain")]
    return _sentence("Do demonstrations help?", view, "ICL gain", best, _means_of)


def _retrieval(view: RunView) -> Sentence | None:
    best = [_best(own) for _, own in _by_task(view, "Retrieval")]
    made = _sentence("Does retrieval help?", view, "Retrieval", best, _means_of)
    names = {c.arm for c in best if c.verdict == "better"}
    copied = [c for c in view.comparisons.get("Vote", []) if c.verdict == "open" and c.arm.split(" at ")[0] in names]
    if made and copied:
        one = copied[0]
        vote = f"a vote of the retrieved answers, without the model, scores {format_share(one.reference_mean)} too"
        return replace(made, claim=f"{made.claim} But on {one.subject} {vote}.")
    return made


def _decoding(view: RunView) -> Sentence | None:
    every = [c for c in view.comparisons.get("Decoding", []) if c.against == view.reference]
    names = list(dict.fromkeys(c.arm for c in every))
    if not names:
        return None
    beaten = "; ".join(dict.fromkeys(sentence.claim for sentence in control_sentences(view)))
    beaten = beaten.replace(f"{names[0]} beats", "It beats") if len(names) == 1 else beaten
    tested = [c for c in every if c.result and not c.by_construction]
    asks = f"{'Does' if len(names) == 1 else 'Do'} {join_words(names)} help?"
    made = _sentence(asks, view, "Decoding", tested, _means_of)
    return made and replace(made, claim=f"{made.claim} {beaten}." if beaten else made.claim)


def _interventions(view: RunView) -> Sentence | None:
    every = [c for c in view.comparisons.get("Intervention", []) if c.result and not c.by_construction]
    names = list(dict.fromkeys(c.arm for c in every))
    asks = f"{'Does' if len(names) == 1 else 'Do'} {join_words(names)} help?" if names else ""
    return _sentence(asks, view, "Intervention", every[:1], _means_of)


def _means_of(one: ArmComparison) -> str:
    return f"{one.arm} {one.arm_mean}, {one.against} {one.against_mean}"


def _best(own: list[ArmComparison]) -> ArmComparison:
    return (
        min(own, key=lambda c: c.certain_mean) if own[0].better == "lower" else max(own, key=lambda c: c.certain_mean)
    )


def _by_task(view: RunView, topic: str) -> Iterator[tuple[str, list[ArmComparison]]]:
    every = next((own for name, own in view.comparisons.items() if name == topic), [])
    for subject, own in groupby(every, key=lambda c: c.subject):
        if tested := [c for c in own if c.result is not None and not c.by_construction]:
            yield subject, tested


def _sentence(
    asks: str, view: RunView, topic: str, best: list[ArmComparison], words: Callable[[ArmComparison], str]
) -> Sentence | None:
    """The verdict, the tasks on which it holds, and the numbers of the first of them."""
    if not best:
        return None
    limits = _limits(view)
    silent = {c.subject for c in best if c.verdict == "open" and c.subject in limits}
    comparisons = [c for c in best if c.subject not in silent]
    if not comparisons:
        return Sentence(f"{join_words(sorted(silent))} cannot tell: see the notes.", "", "open", asks)
    comparisons.sort(
        key=lambda c: (
            NEWS.index(c.verdict) if c.verdict in NEWS else len(NEWS),
            -abs(c.result.difference if c.result else 0),
        )
    )
    one = comparisons[0]
    result = one.result
    assert result is not None
    where = f" on {one.subject}" if len(view.tasks) > 1 or len({c.subject for c in best}) > 1 else ""
    claim = f"{WORDS.get(one.verdict, 'Not shown')}{where}: {words(one)}."
    others = list(
        dict.fromkeys(c.subject for c in comparisons[1:] if c.verdict == one.verdict and c.subject != one.subject)
    )
    claim += f" Likewise on {join_words(others)}." if others else ""
    claim += f" {join_words(sorted(silent))} cannot tell." if silent else ""
    finding = next((f for f in view.findings if f.topic == topic and f.subject == one.subject), None)
    claim += f" {finding.more}" if finding and finding.is_format else ""
    numbers = f"{one.size} {format_interval(result.low, result.high)}"
    numbers += "" if one.verdict == "undecided" else f", {format_p(one.p)}"
    numbers += f"; {one.unread}" if one.bounds and (is_wide(one.bounds.unread) or one.verdict == "undecided") else ""
    if one.verdict == "open":  # 80 % power at the level of the interval
        numbers += f"; could have found ±{format_share(DETECTABLE * (result.high - result.low) / 2)}"
    return Sentence(claim, numbers, one.verdict, asks)


def _size(view: RunView) -> str:
    """How many queries there are, and what difference they could show."""
    clusters = min((c.result.clusters for own in view.comparisons.values() for c in own if c.result), default=0)
    detectable = format_share(smallest_detectable_difference(clusters), 2) if clusters else ""
    queries = sorted({int(n) for n in view.scores.groupby("task", sort=False)["query"].nunique()})
    each = " to ".join(f"{n:,}" for n in dict.fromkeys((queries[0], queries[-1])))
    where = " in each task" if len(view.tasks) > 1 else ""
    size = f"{each} queries × {format_count(view.seeds, 'seed')}{where}."
    minimum = (
        f" Two settings must differ by about {detectable} to be told apart (80 % power, before correction)."
        if detectable
        else ""
    )
    return f"{size}{minimum} All p and intervals are corrected together."
