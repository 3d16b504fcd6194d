"""Runs that a leaderboard would count twice: the same folder by another path, or a copy of it."""

from collections.abc import Sequence

from experiments.results.run_view import RunView
from icl.text.json_text import canonical_digest


def distinct_runs(views: Sequence[RunView]) -> tuple[list[RunView], list[str]]:
    """(each run once, a sentence on each repeated one). Runs with equal cells and answers are one run."""
    first: dict[str, RunView] = {}
    repeated = []
    for view in views:
        same = first.setdefault(_answers_digest(view), view)
        if same is not view:
            repeated.append(f"{view.path} has the same cells and answers as {same.path}: it counts once.")
    return list(first.values()), repeated


def _answers_digest(view: RunView) -> str:
    columns = (view.frame[name].astype(str) for name in ("cell", "query", "output"))
    return canonical_digest(sorted(zip(*columns, strict=True)))
