"""How far is the run from the published numbers of the experiment file?

    published    the published number
    here         the run's own number, with its 95 % interval
    difference   here minus published; its interval is the run's alone

The key `published` of the experiment file has the numbers (`experiments.results.published`). It is no test: a paper's
prompts, queries, precision and versions differ. Rows of another model compare models.
"""

from typing import TYPE_CHECKING

from experiments.analyses.shared import make_table
from experiments.results.published import compare_published
from icl.errors import ConfigError

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView


def analyze(view: "RunView") -> "DataFrame":
    """One row per published number and model. Raises ConfigError if the file has no published numbers."""
    numbers = compare_published(view)
    if not numbers:
        raise ConfigError(
            f"{view.path}: the experiment file of this run has no key `published`. `icl ls configs papers/vcd` has "
            "an example."
        )
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
    signed = every if any(one.spec.minus for one in numbers) else ("difference",)
    note = "difference: here minus published; no test. Sources are in the report"
    return make_table(rows, "Published numbers", note=note, signed=signed)
