"""The findings of a run: sentences that state what was tested, each with its numbers, p and n.

The rules for one metric and the reference decoding (of the run's `compare`, else greedy, else the first):

    ICL gain     Every arm with shots against the same arm at 0 shots, per task and setting of the other axes. The
                 sentence is about the arm with the highest score; p is corrected for all of these comparisons. Arms
                 significantly below 0 shots are named.
    Retrieval    Every retriever against `random`, pooled over the numbers of shots that both have. Without `random`,
                 against the first retriever, which is said.
    Vote         Every retriever at its largest number of shots: the model against the majority vote of the same
                 demonstrations, with renamed labels too: both are then judged by the names that these use.
    Decoding     Every strategy that is neither the reference nor a control, pooled over shots and retrievers: against
                 the reference, and against each of its controls. It 'beats all its controls' if every one of these
                 differences is significant and in the good direction.
    Answer form  Every composer that asks for a form of answer (`composer.answer`): against the same composer without
                 it, pooled over shots and retrievers, with the shares of unread outputs. A request is a treatment: it
                 can change what a model answers, and not only whether it can be read.
    Intervention Every intervention that is no control, pooled over shots and retrievers: against no intervention,
                 against each of its controls, and against its labeled items as demonstrations, if these were run.

ICL gain, Retrieval and Vote use arms without an intervention, if there are any. Arms with transformed labels
are excluded from ICL gain and Retrieval, because a lower score there means that the model follows the labels.

If lower is better, the best arm is the lowest one, and 'beats' means below. Without a good direction there are no best
arm and no verdicts, only differences.

Significant means p <= .05 after a correction over all comparisons of all topics (`page_comparisons`): the topics share
the level, with Holm in each (`significance.holm`). If no arm differs from another, any of the sentences says so in at
most 5 % of runs. Arms that are the same by construction are not tested. Other differences are 'not distinguishable',
which does not mean equal: the interval shows how large a difference could be. It is corrected as p is, and leaves out 0
exactly if the corrected p is at most .05. Pairs are (query, seed) and the pooled settings; the units are queries or
their groups (`intervals`).
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from experiments.config import DEFAULT_METRIC, DEFAULT_REFERENCES, NO_INTERVENTION, name_of
from experiments.stats.arm_comparisons import ArmComparison, Topic, Verdict, compare_arms, correct_topics
from experiments.stats.arms import (
    NO_VALUE,
    axes_of,
    axis_values,
    better_of,
    describe_arm,
    drop_unscored_tasks,
    find_baseline_column,
    shared_settings,
    short_control_name,
    split_by_subject,
    tidy_frame,
    varying_axes,
)
from experiments.stats.formatting import format_share, format_signed, join_words
from experiments.stats.settled import unread_flags
from experiments.stats.strategy_verdicts import compare_strategies
from icl import Better, DataFrame, Series, pd

VERDICT_PHRASES = {
    "better": "beats",
    "differs": "differs from",
    "open": "is not distinguishable from",
    "undecided": "may or may not differ from",
    "unpaired": "was not compared with",
}
BY_NAMES_USED = "by_names_used"
"""A column: whether a sample is judged by the names that its demonstrations use."""
CHANCE = DEFAULT_REFERENCES["retriever"]
NO_CHANCE = (
    f"`{CHANCE}` is not among the retrievers, so they are compared with {{}}; add it to test them against chance."
)
NO_CONTROL = re.compile(r"(, )?control=none")
"""The part of a label that says of an intervention that it is no control."""
SECOND_METRIC_GAP = 0.005
"""The smallest gap between the differences of two metrics that is reported."""


@dataclass(frozen=True)
class InterventionControls:
    """The controls of the interventions of a run.

    Attributes:
        controls: Label of an intervention -> label of each of its controls, with a short name of the control.
        of_items: The labels of decodings that use the labeled items of a fit without the intervention.
        fitted: The labels of the interventions that have been fitted on labeled items.
    """

    controls: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    of_items: Sequence[str] = ()
    fitted: Collection[str] = ()


@dataclass(frozen=True)
class Finding:
    """One sentence about a run: `claim: numbers. more`.

    Attributes:
        topic: The kind of comparison.
        subject: The task and setting, in words.
        claim: What the comparison shows.
        numbers: Difference, interval, p and n.
        more: A further sentence, or ''.
        verdict: The verdict of the main comparison; 'open' is not distinguishable, 'unpaired' is refused.
        is_format: Whether the two arms write their answers differently. `more` says how.
    """

    topic: Topic
    subject: str
    claim: str
    numbers: str
    more: str
    verdict: Verdict
    is_format: bool = False

    @property
    def sentence(self) -> str:
        return " ".join(filter(None, [f"{self.claim}: {self.numbers}." if self.numbers else self.claim, self.more]))


def findings(
    frame: DataFrame,
    metric: str = DEFAULT_METRIC,
    *,
    axes: Sequence[str] | None = None,
    reference: str | None = None,
    controls: Mapping[str, Sequence[str]] | None = None,
    vote: str = "vote",
    also: str | None = "strict",
    excluded: "Series[bool] | None" = None,
) -> list[Finding]:
    """The findings of a frame, by topic. Takes the same arguments as `page_comparisons`."""
    comparisons = page_comparisons(
        frame, metric, axes=axes, reference=reference, controls=controls, vote=vote, also=also, excluded=excluded
    )
    return describe_comparisons(comparisons, also)


def page_comparisons(
    frame: DataFrame,
    metric: str = DEFAULT_METRIC,
    *,
    axes: Sequence[str] | None = None,
    reference: str | None = None,
    controls: Mapping[str, Sequence[str]] | None = None,
    vote: str = "vote",
    also: str | None = "strict",
    excluded: "Series[bool] | None" = None,
    interventions: InterventionControls | None = None,
    by_names_used: DataFrame | None = None,
    requested_forms: Mapping[str, str] | None = None,
    by_column: Sequence[ArmComparison] = (),
    claims: Sequence[ArmComparison] = (),
) -> dict[Topic, list[ArmComparison]]:
    """All comparisons of a frame that become sentences, with p corrected over all of them.

    Args:
        frame: The samples.
        metric: The column of scores.
        axes: The axes of the frame, by default those that it has.
        reference: The label of the reference decoding.
        controls: The labels of the controls of each strategy.
        vote: The baseline of the majority vote.
        also: A second metric, such as a strict one; its gain is reported next to the gain.
        excluded: For each row of the frame, whether it is excluded from gains and comparisons of retrievers (its labels
            were transformed).
        interventions: The controls of the interventions.
        by_names_used: The columns `model` and `vote` for samples with renamed labels: scores under the names that the
            demonstrations use (`sample_rows.scores_by_names_used`). The topic Vote reads them.
        requested_forms: Label of a composer that asks for a form of answer -> that of the composer that asks for none.
        by_column: Tests of effects that differ between parts of the data, which join the family.
        claims: Tests of claims of the experiment file, which join the family.
    """
    axes = tuple(axes if axes is not None else axes_of(frame))
    samples = tidy_frame(frame, axes)
    samples = samples.assign(**{axis: NO_VALUE for axis in ("task", "retriever", "decoding") if axis not in samples})
    better = better_of(frame, metric)
    base = reference_decoding(samples, reference)
    interventions = interventions or InterventionControls()
    varying = [axis for axis in varying_axes(samples, axes) if axis not in ("shots", "retriever", "decoding")]
    samples = drop_unscored_tasks(samples, metric)
    of_items = samples[samples["decoding"].isin(interventions.of_items)]
    samples = samples[~samples["decoding"].isin(interventions.of_items)]
    plain = steered = samples[samples["decoding"] == base]
    settings = [axis for axis in varying if axis != "intervene"]
    if "intervene" in varying and NO_INTERVENTION in set(plain["intervene"]):
        plain = plain[plain["intervene"] == NO_INTERVENTION]
    else:
        settings = varying
    scored = plain if excluded is None else plain[~excluded.loc[plain.index]]
    shots = "shots" in axes
    voted = find_baseline_column(frame, vote, metric)
    judged = plain
    if by_names_used is not None and voted:
        used = by_names_used.reindex(plain.index)
        own = {metric: used["model"].fillna(plain[metric]), voted: used["vote"].fillna(plain[voted])}
        judged = plain.assign(**own, **{BY_NAMES_USED: used["model"].notna()})
    return correct_topics(
        {
            "ICL gain": _gain_comparisons(scored, settings, metric, better, also) if shots else [],
            "Retrieval": _retrieval_comparisons(scored, settings, metric, better),
            "Vote": _vote_comparisons(judged, settings, metric, better, voted) if shots and voted else [],
            "Decoding": compare_strategies(samples, varying, metric, better, base=base, controls=controls or {}),
            "Intervention": _intervention_comparisons(
                pd.concat([steered, of_items]),
                [axis for axis in varying if axis != "intervene"],
                metric,
                better,
                interventions,
            )
            if "intervene" in varying
            else [],
            "Answer form": _form_comparisons(samples, varying, metric, better, requested_forms or {}),
            "By column": by_column,
            "Claims": claims,
        }
    )


def describe_comparisons(comparisons: Mapping[Topic, Sequence[ArmComparison]], also: str | None) -> list[Finding]:
    """The sentences of corrected comparisons. also: the name of the second metric."""
    return [
        *_gain(comparisons["ICL gain"], also),
        *_retrieval(comparisons["Retrieval"]),
        *_vote(comparisons["Vote"]),
        *_decoding(comparisons["Decoding"]),
        *_interventions(comparisons["Intervention"]),
        *_answer_forms(comparisons["Answer form"]),
    ]


def reference_decoding(samples: DataFrame, preferred: str | None = None) -> str:
    """The decoding that the others are compared with: the preferred one, else the default, else the first."""
    have = [str(value) for value in axis_values(samples, "decoding")]
    return next(
        (name for name in (preferred, DEFAULT_REFERENCES["decoding"]) if name in have), have[0] if have else NO_VALUE
    )


def _gain_comparisons(
    plain: DataFrame, settings: Sequence[str], metric: str, better: Better, also: str | None
) -> list[ArmComparison]:
    trials = []
    for subject, part in split_by_subject(plain, settings):
        zero, some = part[part["shots"] == 0], part[part["shots"] != 0]
        if len(zero):
            for (retriever, shots), rows in some.groupby(["retriever", "shots"], sort=False):
                arm = _at(retriever, shots)
                trials.append(compare_arms(subject, arm, "0 shots", (zero, rows), metric, also=also, better=better))
    return trials


def _retrieval_comparisons(
    plain: DataFrame, settings: Sequence[str], metric: str, better: Better
) -> list[ArmComparison]:
    trials = []
    for subject, part in split_by_subject(plain, settings):
        with_demos = part[part["shots"] != 0] if "shots" in part else part
        names = [name for name in axis_values(with_demos, "retriever") if name != NO_VALUE]
        base = CHANCE if CHANCE in names else next(iter(names), NO_VALUE)
        for name in names:
            if name != base:
                theirs, mine = (with_demos[with_demos["retriever"] == one] for one in (base, name))
                both, where = shared_settings(theirs, mine, ["shots"])
                one = compare_arms(
                    subject, str(name), str(base), both, metric, on=["shots"], pooled=where, better=better
                )
                trials.append(one)
    return trials


def _vote_comparisons(
    plain: DataFrame, settings: Sequence[str], metric: str, better: Better, vote: str
) -> list[ArmComparison]:
    trials = []
    for subject, part in split_by_subject(plain, settings):
        for name in axis_values(part, "retriever"):
            rows = part[(part["retriever"] == name) & (part["shots"] != 0) & part[vote].notna()]
            rows = rows[rows["shots"] == rows["shots"].max()]
            if len(rows):
                arm = _at(name, rows["shots"].iloc[0])
                both = rows, rows
                names = ", by the names that these use" if BY_NAMES_USED in rows and rows[BY_NAMES_USED].any() else ""
                one = compare_arms(
                    subject, arm, "the vote", both, metric, reference_metric=vote, pooled=names, better=better
                )
                trials.append(one)
    return trials


def _intervention_comparisons(
    samples: DataFrame, settings: Sequence[str], metric: str, better: Better, interventions: InterventionControls
) -> list[ArmComparison]:
    """Each intervention of each subject with none, with its controls, and with its items as demonstrations."""
    trials = []
    every = {label for controls in interventions.controls.values() for label in controls}
    over = [axis for axis in ("shots", "retriever") if axis in samples]
    for subject, part in split_by_subject(samples, settings):
        is_of_items = part["decoding"].isin(interventions.of_items)
        arms = part[~is_of_items]
        for name in axis_values(arms, "intervene"):
            if name == NO_INTERVENTION or name in every:
                continue
            mine, words = arms[arms["intervene"] == name], NO_CONTROL.sub("", str(name)).replace("()", "")
            others = {NO_INTERVENTION: "no intervention", **interventions.controls.get(str(name), {})}
            for label, other in others.items():
                both, where = shared_settings(arms[arms["intervene"] == label], mine, over)
                if len(both[0]) and len(both[1]):
                    trials.append(
                        compare_arms(subject, words, other, both, metric, on=over, pooled=where, better=better)
                    )
            zero = mine[mine["shots"] == 0] if "shots" in mine else mine[:0]
            for label in interventions.of_items if name in interventions.fitted and len(zero) else ():
                theirs = part[is_of_items & (part["decoding"] == label)]
                if len(theirs):
                    trials.append(compare_arms(subject, words, label, (theirs, zero), metric, better=better))
    return trials


def _form_comparisons(
    samples: DataFrame, varying: Sequence[str], metric: str, better: Better, requested_forms: Mapping[str, str]
) -> list[ArmComparison]:
    """Each composer that asks for a form of answer with the one that asks for none."""
    trials = []
    over = [axis for axis in ("shots", "retriever") if axis in samples]
    for subject, part in split_by_subject(samples, [axis for axis in varying if axis != "composer"]):
        for label, base in requested_forms.items():
            theirs, mine = (part[part["composer"] == name] for name in (base, label))
            both, where = shared_settings(theirs, mine, over)
            if len(both[0]) and len(both[1]):
                one = compare_arms(subject, label, base, both, metric, on=over, pooled=where, better=better)
                unread = [format_share(float(unread_flags(frame, metric).mean()), 2) for frame in both]
                trials.append(replace(one, wrapping=f"Unread outputs: {unread[0]} before, {unread[1]} after."))
    return trials


def _answer_forms(trials: Sequence[ArmComparison]) -> Iterator[Finding]:
    for t in trials:
        claim = _refused(t) or _undecided(t) or f"{t.arm} {_words(t)} {t.against}{t.pooled} ({t.means})"
        yield Finding("Answer form", t.subject, claim, t.numbers, t.wrapping, t.verdict)


def _gain(trials: Sequence[ArmComparison], also: str | None) -> Iterator[Finding]:
    for subject, tried in _by_subject(trials):
        better = tried[0].better
        if better == "neither":
            for t in tried:
                claim = _refused(t) or f"{t.arm} {_words(t)} 0 shots ({t.means})"
                yield Finding("ICL gain", subject, claim, t.numbers, t.wrapping, t.verdict, bool(t.wrapping))
            continue
        best = max(tried, key=lambda t: (t.result is not None, t.certain_mean * (1 if better == "higher" else -1)))
        worse = [t for t in tried if t.verdict == "worse" and t is not best]
        name = f"the best of {len(tried)} arms, {best.arm}," if len(tried) > 1 else best.arm
        claim = {
            "better": f"{name} is {best.side} 0 shots ({best.means})",
            "worse": f"no gain; even {name} is {best.side} 0 shots ({best.means})",
            "open": f"no significant gain; {name} {_words(best)} 0 shots",
            "undecided": f"undecided: {name} against 0 shots ({best.means})",
        }.get(best.verdict, best.refused)
        more = ""
        if (
            best.result is not None
            and best.also is not None
            and best.verdict != "undecided"
            and abs(best.also - best.result.difference) > SECOND_METRIC_GAP
        ):
            more = f"By {also} scoring {format_signed(best.also)}."
        if worse:
            more += f" {worse[0].side.capitalize()} 0 shots: {join_words([f'{t.arm} ({t.short})' for t in worse])}."
        more = " ".join(filter(None, [more.strip(), best.wrapping]))
        yield Finding("ICL gain", subject, claim, best.numbers, more, best.verdict, bool(best.wrapping))


def _retrieval(trials: Sequence[ArmComparison]) -> Iterator[Finding]:
    for subject, tried in _by_subject(trials):
        for i, t in enumerate(tried):
            claim = _refused(t) or _undecided(t) or f"{t.arm} {_words(t)} {t.against}{t.pooled}"
            missing = NO_CHANCE.format(t.against) if i == 0 and t.against != CHANCE else ""
            more = " ".join(filter(None, [missing, t.wrapping]))
            yield Finding("Retrieval", subject, claim, t.numbers, more, t.verdict, bool(t.wrapping))


def _vote(trials: Sequence[ArmComparison]) -> Iterator[Finding]:
    for t in trials:
        claim = (
            _refused(t)
            or _undecided(t)
            or f"{t.arm} {_words(t)} the vote of the same demonstrations{t.pooled} ({t.means})"
        )
        yield Finding("Vote", t.subject, claim, t.numbers, "", t.verdict)


def _decoding(trials: Sequence[ArmComparison]) -> Iterator[Finding]:
    for against, checks in _by_arm(trials):
        claim = _refused(against) or _undecided(against)
        claim = claim or f"{against.arm} {_words(against)} {against.against}{against.pooled}"
        unbeaten = {t.verdict for t in checks} - {"better"}
        verdict = against.verdict
        if verdict == "better" and unbeaten:
            verdict = "undecided" if unbeaten == {"undecided"} else "open"
        more = " ".join(filter(None, [_checked(checks, against), against.wrapping]))
        yield Finding("Decoding", against.subject, claim, against.numbers, more, verdict, bool(against.wrapping))


def _interventions(trials: Sequence[ArmComparison]) -> Iterator[Finding]:
    for against, checks in _by_arm(trials):
        words = f"{against.arm} {_words(against)} {against.against}{against.pooled} ({against.means})"
        verdict = against.verdict if all(t.verdict == against.verdict for t in checks) else "open"
        more = " ".join(filter(None, [_beside_controls(checks, against), against.wrapping]))
        claim = _refused(against) or _undecided(against) or words
        yield Finding("Intervention", against.subject, claim, against.numbers, more, verdict, bool(against.wrapping))


def _refused(t: ArmComparison) -> str:
    """Why there is no test, if there is none."""
    if t.by_construction:
        return f"{t.arm} answers as {t.against} by construction{t.pooled}, so there is nothing to test."
    return t.refused


def _undecided(t: ArmComparison) -> str:
    """The claim of a comparison that its unread outputs could decide either way, if it is one."""
    return f"undecided: {t.arm} against {t.against}{t.pooled} ({t.means})" if t.verdict == "undecided" else ""


def _checked(checks: Sequence[ArmComparison], against: ArmComparison) -> str:
    """The sentence about a strategy's controls."""
    if not checks:
        return "None of its controls was run." if against.verdict == "better" else ""
    if all(t.verdict == "better" for t in checks):
        return f"It beats all its controls: {join_words([f'{_name(t)} ({t.short})' for t in checks])}."
    conclusion = "" if against.better == "neither" else ": it does not beat all its controls"
    return f"It {_by_verdict(checks)}{conclusion}."


def _beside_controls(checks: Sequence[ArmComparison], against: ArmComparison) -> str:
    """The sentence about an intervention's controls, which may do more or less than it in either direction."""
    if not checks:
        return "" if against.verdict == "open" else "None of its controls was run."
    return f"It {_by_verdict(checks)}."


def _by_verdict(checks: Sequence[ArmComparison]) -> str:
    """'beats its control a (+.100, p = .010) and is not distinguishable from its controls b (...) and c (...)'."""
    clauses = []
    by_words = sorted(checks, key=lambda t: (t.identical, _words(t)))
    for words, own in groupby(by_words, key=_words):
        names = [f"{_name(t)} ({t.short})" for t in own]
        clauses.append(f"{words} its control{'s' if len(names) > 1 else ''} {join_words(names)}")
    return join_words(clauses)


def _name(t: ArmComparison) -> str:
    """The name of a control, without the label of its strategy."""
    return t.against if t.arm == name_of(t.arm) else short_control_name(t.against, t.arm)


def _words(t: ArmComparison) -> str:
    """The verdict as a verb phrase."""
    if t.identical or t.by_construction:
        return "always scores the same as"
    return f"is {t.side}" if t.verdict == "worse" else VERDICT_PHRASES[t.verdict]


def _at(retriever: object, shots: object) -> str:
    """'knn at 4 shots'."""
    return " at ".join(
        describe_arm({key: value}) for key, value in (("retriever", retriever), ("shots", shots)) if value != NO_VALUE
    )


def _by_subject(trials: Sequence[ArmComparison]) -> Iterator[tuple[str, list[ArmComparison]]]:
    for subject, own in groupby(trials, key=lambda t: t.subject):
        yield subject, list(own)


def _by_arm(trials: Sequence[ArmComparison]) -> Iterator[tuple[ArmComparison, list[ArmComparison]]]:
    """The first comparison of each arm of each subject, and the others."""
    for _, own in groupby(trials, key=lambda t: (t.subject, t.arm)):
        first, *others = own
        yield first, others
