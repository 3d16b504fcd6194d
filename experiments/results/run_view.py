"""A run as tables, pages, sentences and analyses read it: its samples, and which columns are axes and scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.config.keys import DEFAULT_CORRECTION, DEFAULT_METRICS, METRIC_PREFERENCE
from experiments.results.claims import compare_claims
from experiments.results.column_effects import (
    ColumnEffects,
    column_effects,
    describe_interactions,
    interaction_comparisons,
)
from experiments.results.invocations import version_differences
from experiments.results.labeling import describe_labels, make_queue
from experiments.results.sample_notes import (
    CUT_ANSWER,
    CUT_THINKING,
    NUMBERLESS,
    UNPARSED,
    UNREAD,
    ArmAnswers,
    arm_answers,
    cut_columns,
    label_transform_names,
    label_transform_note,
    mask_note,
    number_metrics,
    part_notes,
    reader_note,
)
from experiments.stats import FORM, ArmComparison, Topic, drop_scores, format_count, is_run_level, scores_by_names_used
from experiments.stats.answer_forms import (
    answer_forms,
    ceiling_effects,
    floor_effects,
    iter_notes,
    names_option,
    numberless_outputs,
    rarely_an_option,
    unparsed_outputs,
)
from experiments.stats.arms import NO_VALUE, axis_values, better_of, find_baseline_column, is_accuracy, varying_axes
from experiments.stats.decoding_effects import DecodingEffect, decoding_effects
from experiments.stats.findings import (
    Finding,
    InterventionControls,
    describe_comparisons,
    page_comparisons,
    reference_decoding,
)
from experiments.stats.settled import unread_flags
from experiments.stopping import WARNING, Family, anytime_findings, stopped_findings
from experiments.store import Store, changed_since_merge, describe_probe, last_state, read_labels
from icl import Better, DataFrame, Series, pd


@dataclass(frozen=True, eq=False)
class RunView:
    """The samples of a run with the settings of its comparisons.

    Attributes:
        path: The run directory.
        name: The name of the run.
        frame: One row per sample, with axes as labels. Baselines are judged by `metric`.
        scores: The same rows with the columns that statistics read, baselines of every metric, and `failed` as a
        boolean.
            `scores.attrs["better"]` is the good direction of each metric.
        axes: The names of the axes.
        metrics: The names of the metrics.
        baselines: The names of the baselines.
        metric: The metric of comparisons.
        to: The reference setting of comparisons.
        correct: The correction of p-values.
        controls: The labels of the controls of each strategy.
        interventions: The controls of the interventions.
        requested_forms: Label of a composer that asks for a form of answer -> that of the composer that asks for none.
        info: The content of run.json.
        families: The comparisons of a run with `stop`. Then `frame` has the queries on which all compared arms stand.
        by: Columns of the data by which the run is reported (`experiments.results.data_columns`).
        waits_for: The reference of `compare.to`, if the run has no sample of it yet.
    """

    path: Path
    name: str
    frame: DataFrame
    scores: DataFrame
    axes: tuple[str, ...]
    metrics: tuple[str, ...]
    baselines: tuple[str, ...]
    metric: str
    to: Mapping[str, Any]
    correct: str = DEFAULT_CORRECTION
    controls: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    interventions: InterventionControls = field(default_factory=InterventionControls)
    requested_forms: Mapping[str, str] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    trust: bool = False
    families: tuple[Family, ...] = ()
    by: tuple[str, ...] = ()
    waits_for: str = ""

    @cached_property
    def by_column(self) -> tuple[ColumnEffects, ...]:
        """The run by each of the columns `by`."""
        return tuple(column_effects(self, name) for name in self.by)

    @cached_property
    def paired_scores(self) -> DataFrame:
        """The frame in which only queries and seeds that every arm of the task has answered have a score.

        Means of all arms then stand on the same queries. An arm without any score takes none from the others.
        """
        if not (missing := self.scores[self.metric].isna()).any():
            return self.scores
        answers = self.scores.groupby(list(self.axes), sort=False, dropna=False)[self.metric].transform("count") > 0
        keys = pd.MultiIndex.from_frame(self.scores[["task", "query", "seed"]])
        lost = keys.isin(keys[missing & answers])
        left = self.scores["task"].isin(self.scores["task"][~lost & ~missing])
        if not (lost := lost & left.to_numpy()).any():
            return self.scores
        baselines = (find_baseline_column(self.scores, name, self.metric) for name in self.baselines)
        return drop_scores(self.scores, lost, [self.metric, *dict.fromkeys(filter(None, baselines))])

    @cached_property
    def row_axes(self) -> tuple[str, ...]:
        """The axes that distinguish the rows of one task's table; decoding comes last."""
        wide = varying_axes(self.scores, [axis for axis in self.axes if axis not in ("task", "shots")])
        first = tuple(axis for axis in ("retriever", "decoding") if axis in self.axes)
        return tuple(dict.fromkeys([*(a for a in wide if a not in first), *first]))

    @cached_property
    def fixed(self) -> dict[str, Any]:
        """The value of each axis that has only one."""
        columns = {"task", "shots", *self.row_axes}
        return {axis: self.scores[axis].iloc[0] for axis in self.axes if axis not in columns}

    @cached_property
    def control_names(self) -> frozenset[str]:
        """The labels of all controls. A strategy may be the control of another one."""
        return frozenset(name for names in self.controls.values() for name in names)

    @property
    def better(self) -> Better:
        """The good direction of `metric`."""
        return better_of(self.scores, self.metric)

    @property
    def of_samples(self) -> bool:
        """Whether each sample has a score of its own, so that `metric` is not a run-level metric."""
        return not is_run_level(self.scores, self.metric)

    @property
    def sample_metrics(self) -> tuple[str, ...]:
        """The metrics that are not run-level metrics."""
        return tuple(metric for metric in self.metrics if not is_run_level(self.scores, metric))

    @cached_property
    def accuracies(self) -> tuple[str, ...]:
        """The metrics that are proportions of right answers, in the usual order of preference."""
        declared = self.scores.attrs.get("accuracies")
        accuracies = [m for m in self.metrics if (is_accuracy(m) if declared is None else m in declared)]
        order = {metric: place for place, metric in enumerate(METRIC_PREFERENCE)}
        return tuple(sorted(accuracies, key=lambda metric: order.get(metric, len(order))))

    @property
    def judge(self) -> str | None:
        """The metric that decides whether one answer is right: `metric`, else the first accuracy."""
        if self.of_samples:
            return self.metric
        return next((metric for metric in self.accuracies if metric in self.sample_metrics), None)

    @property
    def measure(self) -> str:
        """The name of `metric` in words: 'lenient accuracy', 'chair_s (lower is better)'."""
        lower = " (lower is better)" if self.better == "lower" else ""
        return f"{self.metric}{' accuracy' if self.metric in self.accuracies else ''}{lower}"

    @property
    def tasks(self) -> list[str]:
        return [str(task) for task in axis_values(self.scores, "task")]

    @property
    def seeds(self) -> int:
        return int(self.frame["seed"].nunique())

    @property
    def failed(self) -> int:
        return int(self.scores["failed"].sum())

    @property
    def unfinished(self) -> str:
        """A sentence if the run is not finished, else ''."""
        sessions = self.info.get("sessions") or [{}]
        state = last_state(self.path, self.info)
        reason = sessions[-1].get("reason")
        because = f"{state}: {reason.rstrip('.')}" if isinstance(reason, str) and reason else state
        waits = f" Nothing is compared, because compare.to ({self.waits_for}) has no samples yet."
        so_far = f"The run is not finished ({because}): this is what it has so far.{waits if self.waits_for else ''}"
        return "" if state == "finished" else so_far

    @cached_property
    def probes(self) -> dict[str, bool]:
        """A sentence for each server that was probed before samples were computed -> whether it is a warning."""
        return {
            describe_probe(record): bool(record.get("open"))
            for session in self.info.get("sessions") or []
            for record in (session.get("probes") or {}).values()
        }

    @cached_property
    def is_growing(self) -> bool:
        """Whether a run without `stop` lacks samples of arms that answer, so that it will be looked at again."""
        sizes, cells = self.info.get("sizes") or [], self.info.get("cells") or []
        if not self.unfinished or self.families or len(sizes) != len(cells):
            return False
        counts = self.scores.groupby(self.frame["cell"])["failed"].agg(["size", "sum"])
        numbers = {cell: (int(size), int(failed)) for cell, size, failed in counts.itertuples()}
        short = [numbers.get(cell, (0, -1)) for cell, size in zip(cells, sizes, strict=True)
                 if numbers.get(cell, (0, 0))[0] < size]  # fmt: skip
        return any(samples != failed for samples, failed in short)  # an arm that was given up has failures only

    @property
    def is_sequential(self) -> bool:
        """Whether comparisons come from looks at a growing run. There are no other p-values then."""
        return bool(self.families) or self.is_growing

    @cached_property
    def label_notes(self) -> list[str]:
        """Sentences on the labels of unread outputs."""
        labels = read_labels(self.path)
        if labels.people and is_run_level(self.frame, self.metric):
            return [
                f"Labels do not settle {self.metric}, which is computed from whole arms: unread outputs stay unread."
            ]
        queue = make_queue(self.frame, self.metric) if labels.people or labels.judged else None
        return [*describe_labels(queue, labels)] if queue is not None and queue.outputs else []

    @property
    def scores_note(self) -> str:
        """The queries that scores are computed on, unless these are all; else ''."""
        if self.families:
            return "Scores use the queries that all compared arms have."
        lost = self.scores[self.metric].notna() & self.paired_scores[self.metric].isna()
        if not lost.any():
            return ""
        number = len(self.scores[lost].drop_duplicates(["task", "query"]))
        return (
            f"Scores use the queries that all arms answered: "
            f"{format_count(number, 'query', 'queries')} on which an arm failed "
            f"{'is' if number == 1 else 'are'} left out. A comparison leaves out only failures of its own two arms."
        )

    @property
    def sequential_note(self) -> str:
        """Why a page shows only the comparisons of looks; '' if it shows others."""
        if self.families:
            return (
                "The comparisons of this run end when they are decided (`stop`): their verdicts are under What it "
                "shows. Other tests were not planned, and looking at them would not be valid."
            )
        return WARNING if self.is_growing else ""

    @cached_property
    def mixed_versions(self) -> str:
        """Sentences if samples come from different versions, devices or commits, or a merged run is out of date."""
        sentences = changed_since_merge(self.path, self.info), version_differences(self.frame, Store(self.path))
        return " ".join(filter(None, sentences))

    @cached_property
    def reference(self) -> str:
        """The decoding that the others are compared with."""
        preferred = self.to.get("decoding")
        if "decoding" not in self.scores:
            return NO_VALUE
        return reference_decoding(self.scores, str(preferred) if preferred is not None else None)

    @cached_property
    def effects(self) -> list[DecodingEffect]:
        """The effects of each decoding on the answers; empty if the run has one decoding only."""
        if "decoding" not in self.scores or self.scores["decoding"].nunique() < 2 or self.is_sequential:
            return []
        metrics = [m for m in self.metrics if self.scores[m].notna().any()]
        return decoding_effects(
            self.frame,
            self.paired_scores,
            self.axes,
            self.metric,
            metrics=metrics,
            base=self.reference,
            controls=self.controls,
            comparisons=self.comparisons["Decoding"],
        )

    @cached_property
    def _second_metric(self) -> str | None:
        """The second metric; its gain is reported next to the gain of `metric`."""
        others = DEFAULT_METRICS if self.better == "higher" else ()
        return next((m for m in others if m in self.metrics and m != self.metric), None)

    @cached_property
    def _renamed(self) -> "Series[Any]":
        """For each sample, the transforms of its cell that change labels, or ''."""
        return label_transform_names(self.frame, Store(self.path))

    @cached_property
    def comparisons(self) -> "dict[Topic, list[ArmComparison]]":
        """The comparisons behind the sentences of the report, with p corrected over all of them."""
        return page_comparisons(
            self.answers,
            self.metric,
            axes=self.axes,
            reference=self.reference,
            controls=self.controls,
            also=self._second_metric,
            excluded=self._renamed != "",
            interventions=self.interventions,
            requested_forms=self.requested_forms,
            by_names_used=self._scores_by_names_used,
            by_column=[one for effects in self.by_column for one in interaction_comparisons(effects)],
            claims=[one for own in compare_claims(self) for one in own],
        )

    @property
    def _scores_by_names_used(self) -> DataFrame | None:
        """The scores of samples with renamed labels, as the topic Vote reads them; None for other metrics."""
        rows = self.frame[(self._renamed != "") & self.frame["failed"].isna() & (self.scores["shots"] != 0)]
        is_judged = self.of_samples and self.metric in self.accuracies
        return scores_by_names_used(rows) if len(rows) and is_judged else None

    @cached_property
    def names_option(self) -> "Series[bool] | None":
        """Whether each output names an option of its question (`experiments.stats.answer_forms.names_option`)."""
        return names_option(self.frame)

    @cached_property
    def answers(self) -> DataFrame:
        """The scores with the columns that `experiments.results.sample_notes` reads."""
        forms = answer_forms(self.frame)
        unread = sum(unread_flags(self.frame, metric) for metric in self.metrics) > 0
        unparsed = unparsed_outputs(self.frame, forms[FORM], self.names_option) & ~unread
        flags = {UNREAD: unread, UNPARSED: unparsed}
        if numeric := number_metrics(self.info.get("metrics", {})).intersection(self.metrics):
            of_all = len(numeric) == len(self.metrics)
            numberless = numberless_outputs(self.frame, forms[FORM], of_all=of_all) & ~unread
            flags |= {UNPARSED: unparsed | numberless, NUMBERLESS: numberless}
        return self.scores.assign(**forms, **flags, **cut_columns(self.frame))

    @cached_property
    def arm_answers(self) -> list[ArmAnswers]:
        """The answers of each arm: scores, forms, outputs without an answer, and what was cut."""
        return arm_answers(self.answers, self.axes)

    @cached_property
    def answer_notes(self) -> list[str]:
        """Sentences about outputs without an answer, what was cut, parts that do not exist, and excluded options."""
        answered = self.answers[self.answers[FORM].notna()]
        unparsed, thinking, cut = (answered[name] for name in (UNPARSED, CUT_THINKING, CUT_ANSWER))
        notes = iter_notes(unparsed, thinking, cut, answered[UNREAD], answered.get(NUMBERLESS))
        old, masked = reader_note(self.info.get("metrics", {}).get(self.metric)), mask_note(self.frame)
        return [*notes, *filter(None, (old, masked)), *part_notes(self.frame, Store(self.path))]

    @cached_property
    def findings(self) -> list[Finding]:
        """The sentences of the report, by topic."""
        if self.families:
            return stopped_findings(self.families, self.metric, self.better)
        if self.is_growing:
            return [*anytime_findings(self.scores, self.to, self.metric, self.axes, planned=planned_clusters(self))]
        renamed = self._renamed
        every = describe_comparisons(self.comparisons, self._second_metric)
        parts = describe_interactions(self.comparisons["By column"], self.by)
        full = ceiling_effects(self.scores, self.metric, self.axes) if self.better == "higher" else {}
        named = self.names_option
        same = full if named is None else floor_effects(self.frame, self.axes, named) | full
        notes = same if named is None else rarely_an_option(self.frame, self.axes, named) | same
        missing = {task: self._reasons(every, task) for task in same}
        answers = [
            Finding("Answers", task, sentence, "", missing.get(task, ""), "open") for task, sentence in notes.items()
        ]
        if note := label_transform_note(renamed[self.scores["shots"] != 0]):
            answers.append(Finding("Answers", "other labels", note, "", "", "open"))
        remaining = [one for one in every if not (self._empty(one) and self._task(one.subject) in same)]
        # Better than the vote or than random retrieval says nothing of a task at its ceiling.
        remaining = [
            one
            for one in remaining
            if one.topic not in ("Vote", "Retrieval")
            or one.verdict not in ("open", "better")
            or self._task(one.subject) not in full
        ]
        return [*answers, *remaining, *parts]

    def _reasons(self, every: Sequence[Finding], task: str) -> str:
        """What the gains that a task does not report say about the format of its answers."""
        of_task = [one for one in every if self._empty(one) and self._task(one.subject) == task]
        return next((one.more for one in of_task if one.topic == "ICL gain" and one.is_format), "")

    def _empty(self, one: Finding) -> bool:
        """Whether the finding says only that arms do not differ."""
        return one.verdict == "open" and one.topic != "Vote"

    def _task(self, subject: str) -> str:
        """The task of a finding: the one that its subject begins with, or the only task."""
        begins = [task for task in self.tasks if f"{subject}, ".startswith(f"{task}, ")]
        return max(begins, key=len, default=self.tasks[0])


def planned_clusters(view: RunView) -> dict[str, int]:
    """Task -> the number of clusters that the run will have; the number of queries for a run of an older version."""
    numbers = view.info.get("clusters") or view.info.get("sizes") or []
    tasks = dict(zip(view.frame["cell"], view.scores["task"], strict=True))
    return {str(tasks[c]): n for c, n in zip(view.info.get("cells") or [], numbers, strict=False) if c in tasks}
