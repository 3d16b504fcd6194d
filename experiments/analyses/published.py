"""How far is the run from the published numbers of the experiment file?

    published    the published number
    here         the run's own number, with its 95 % interval
    difference   here minus published; its interval is the run's alone

The key `published` of the experiment file has the numbers. A number belongs to one arm. `at` names its axes. It also
names columns of the data if the number is for a part, such as the adversarial questions. With `minus` it is a
difference of two arms, in pairs. It is no test: a paper's prompts, queries, precision and versions differ. Rows of
another model compare models.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from experiments import RunView, make_table
from experiments.config.keys import PublishedSpec
from experiments.results.data_columns import split_view
from experiments.stats import Estimate, compare_arms, estimate_arm
from experiments.stats.arms import (
    axis_values,
    better_of,
    describe_arm,
    iter_arms,
    matches_setting,
    resolve_setting,
    varying_axes,
)
from icl import DataFrame, ICLError, pd


def analyze(view: RunView) -> DataFrame:
    """One row per published number and model. Raises ConfigError if the file has no published numbers."""
    declared = [PublishedSpec(**node) for node in (view.info.get("config") or {}).get("published") or ()]
    numbers = [one for spec in declared for one in published_numbers(view, spec)]
    nan = float("nan")
    rows = []
    for one in numbers:
        here = one.here
        rows.append(
            {
                "arm": one.arm,
                "metric": one.metric,
                "published_for": one.spec.model or "-",
                "published": one.spec.value,
                "model_here": f"{one.model}{'' if one.is_same_model else ' (another model)'}" if here else one.refused,
                "here": here.mean if here else nan,
                "low": here.low if here else nan,
                "high": here.high if here else nan,
                "difference": one.difference[0],
                "n": here.samples if here else 0,
            }
        )
    every = ("published", "here", "low", "high", "difference")
    return make_table(
        rows,
        "Published numbers",
        note="difference: here minus published; no test. Sources are in the report",
        signed=every if any(one.spec.minus for one in numbers) else ("difference",),
        missing=f"{view.path}: the experiment file of this run has no key `published`. `icl ls configs papers/vcd` has "
        "an example.",
    )


@dataclass(frozen=True)
class PublishedNumber:
    """A published number next to the run's own.

    Attributes:
        spec: The number.
        metric: Its metric.
        arm: The arm in words.
        model: The model of the run.
        is_same_model: Whether it is the model that was measured, by its name.
        here: The number of the run with its interval; None if the arm was not run.
        refused: Why there is none.
    """

    spec: PublishedSpec
    metric: str
    arm: str
    model: str = ""
    is_same_model: bool = False
    here: Estimate | None = None
    refused: str = ""

    @property
    def difference(self) -> tuple[float, float, float]:
        """(run minus published, low, high); NaN if the arm was not run."""
        if self.here is None:
            return float("nan"), float("nan"), float("nan")
        return self.here.mean - self.spec.value, self.here.low - self.spec.value, self.here.high - self.spec.value


def published_numbers(view: RunView, spec: PublishedSpec) -> Iterator[PublishedNumber]:
    """A published number next to the run's own, for each model of the run that it may be compared with."""
    metric, arm = spec.metric or view.metric, _describe(spec)
    try:
        if metric not in view.metrics:
            raise ICLError(f"the run has no score '{metric}'")
        columns = [name for name in spec.at if name not in view.axes]
        parts = split_view(view, columns) if columns else view
        at = resolve_setting(parts.scores, spec.at, parts.axes, "published: at")
    except ICLError as error:
        yield PublishedNumber(spec, metric, arm, refused=str(error).removeprefix("--by: "))
        return
    scored = parts.scores[parts.scores[metric].notna()]
    for model, is_same in _models(scored, spec, at):
        try:
            here = _estimate(parts, scored, spec, metric, {**at, "model": model} if model else at)
            yield PublishedNumber(spec, metric, arm, model, is_same, here)
        except ICLError as error:
            yield PublishedNumber(spec, metric, arm, model, is_same, refused=str(error))


def _models(scored: DataFrame, spec: PublishedSpec, at: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """(model of the run, whether it is the published one). Others only if the run does not have that one."""
    names = [str(name) for name in axis_values(scored, "model")] if "model" in scored else [""]
    names = [str(at["model"])] if "model" in at else names
    same = [name for name in names if spec.model and _plain(spec.model) in _plain(name)]
    return [(name, True) for name in same] or [(name, False) for name in names]


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _estimate(view: RunView, rows: DataFrame, spec: PublishedSpec, metric: str, at: dict[str, Any]) -> Estimate:
    """The number of the run. Raises ICLError if `at` names no arm or several."""
    mine = _one_arm(view, rows, at, metric, spec.best_of)
    if spec.minus is None:
        return estimate_arm(mine, metric)
    other = at | resolve_setting(view.scores, spec.minus, view.axes, "published: minus")
    theirs = _one_arm(view, rows, other, metric, None)
    one = compare_arms("", "the arm", "the subtracted arm", (theirs, mine), metric)
    if one.result is None:
        raise ICLError(one.refused)
    return Estimate(one.result.difference, one.result.low, one.result.high, one.result.pairs, one.result.clusters)


def _one_arm(view: RunView, rows: DataFrame, setting: Mapping[str, Any], metric: str, best_of: str | None) -> DataFrame:
    arms = [own for arm, own in iter_arms(rows, view.axes) if matches_setting(arm, setting)]
    if not arms:
        raise ICLError("the arm was not run")
    if len(arms) > 1:
        varying = varying_axes(pd.concat(arms), view.axes)
        if best_of is None or set(varying) - {best_of, "retriever"}:
            raise ICLError(f"`at` names several arms: add {', '.join(varying)}")
        sign = -1 if better_of(view.scores, metric) == "lower" else 1
        return max(arms, key=lambda own: sign * float(own[metric].mean()))
    return arms[0]


def _label(node: Any) -> Any:
    """'knn(by=image)' for a component with parameters."""
    if not isinstance(node, Mapping):
        return node
    parameters = ", ".join(f"{key}={value}" for key, value in node.items() if key not in ("name", "label"))
    name = node.get("label", node.get("name"))
    return f"{name}({parameters})" if parameters else name


def _describe(spec: PublishedSpec) -> str:
    def words(setting: Mapping[str, Any]) -> str:
        return describe_arm({key: _label(node) for key, node in setting.items()})

    best = f", best of {spec.best_of}" if spec.best_of else ""
    return f"{words(spec.at)}{best}" + (f" minus {words(spec.minus)}" if spec.minus else "")
