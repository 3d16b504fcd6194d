"""Reports of runs with unread outputs: ranges, hollow bars, and what is undecided before what is open."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from experiments.analyses.catalog import find_analysis
from experiments.config.config import load_config
from experiments.report.sections.differences import differences_section
from experiments.report.sections.headline import findings_section, headline
from experiments.report.sections.scores import curves_section, scores_section
from experiments.results.loaded_run import load_run
from experiments.results.run_list import _mean, summarize_run
from experiments.results.run_view import RunView
from experiments.results.view_run import view_run
from experiments.running.run import run
from experiments.sharing.card import card_text, make_card
from icl.models.base import Request


def answer(request: Request) -> str:
    """A guess in prose without demonstrations; with them the bare answer."""
    (gold,) = request.gold
    return gold if request.demos else f"It may be {gold}, or something else, but I cannot say."


def bare(request: Request) -> str:
    """The bare answer, which is wrong without demonstrations."""
    (gold,) = request.gold
    return gold if request.demos else "no" if gold == "yes" else "yes"


@pytest.fixture(scope="module")
def view_of(
    mapping: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], RunView]:
    """The view of a run whose model answers by a function of this module, computed once."""
    folder = tmp_path_factory.mktemp("unread")

    @cache
    def make(function: str) -> RunView:
        model = {"name": "fake-scripted", "answer": f"{__file__}:{function}"}
        task = {"name": "easy-vqa", "queries": 20}
        grid, compare = {"shots": [0, 2]}, {"to": {"shots": 0}, "metric": "lenient"}
        run(
            load_config(mapping(task=task, model=model, shots=None, grid=grid, compare=compare, metrics=["lenient"])),
            folder / function,
        )
        return view_run(load_run(folder / function / "t"))

    return make


def test_a_range_stands_where_a_single_number_would_mislead(view_of: Callable[[str], RunView]) -> None:
    view = view_of("answer")
    scores = scores_section(view)
    assert "| .000–1.000 [" in scores.to_markdown()
    assert any(note.startswith("Unread: up to 100.0 % of the outputs of an arm.") for note in scores.notes)
    first = headline(view).sentences[0]
    assert (first.verdict, first.claim.split(":")[0]) == ("undecided", "Undecided")
    assert first.numbers.startswith("±.000 to +1.000 [")
    assert first.numbers.endswith("; 20 of 40 outputs unread; `icl label` settles it with labels of about 20 queries")
    for section in (findings_section(view), differences_section(view)):
        assert section is not None
        assert section.frame is not None
        row = section.frame.iloc[0]
        assert (row["range"], row["unread"], bool(row["sure"])) == ("±.000 to +1.000", 0.5, False)
        assert row["difference"] != row["difference"], "a CSV file has no number between the ends"
    assert curves_section(view) is None


def test_a_figure_has_a_hollow_bar_and_no_dot_between_the_ends(view_of: Callable[[str], RunView]) -> None:
    figure = scores_section(view_of("answer")).figure
    assert figure is not None
    (chart,) = figure.panels.values()
    spec = chart.to_dict()
    bar_layers = [layer for layer in spec["layer"] if layer["mark"]["type"] == "bar"]
    assert [bar["mark"]["filled"] for bar in bar_layers] == [False]
    rows = spec["datasets"][bar_layers[0]["data"]["name"]]
    assert [(row["shots"], row["mean"], row["mean_low"], row["mean_high"]) for row in rows] == [(0, None, 0.0, 1.0)]


def test_a_report_without_unread_outputs_has_no_trace_of_them(view_of: Callable[[str], RunView]) -> None:
    view = view_of("bare")
    scores, claims = scores_section(view), findings_section(view)
    assert scores.frame is not None
    assert claims is not None
    assert claims.frame is not None
    assert not {"unread", "mean_low", "range"} & {*scores.frame, *claims.frame}
    assert "nread" not in f"{scores.to_markdown()}{claims.to_markdown()}"
    assert headline(view).sentences[0].verdict == "better"


def test_the_card_the_list_of_runs_and_compared_frames_have_no_number_between_the_ends(
    view_of: Callable[[str], RunView],
) -> None:
    view = view_of("answer")
    (table,) = [part for part in card_text(make_card(load_run(view.path))).split("\n\n") if "lenient [" in part]
    assert "| .000–1.000 \\[" in table
    assert "mean_low" not in table
    assert summarize_run(view.path).score == "lenient 1.000 (2 shots)"
    (row,) = load_run(view.path).compare().to_dict("records")
    assert math.isnan(row["difference"])
    assert (row["difference_low"], row["difference_high"]) == (0.0, 1.0)
    rows = view.scores[view.scores["shots"] == 0]
    assert _mean(rows, view) == (0.0, ".000–1.000")
    bare_view = view_of("bare")
    assert load_run(bare_view.path).compare()["difference"].tolist() == [1.0]
    assert "–" not in summarize_run(bare_view.path).score


def test_an_analysis_says_that_it_takes_the_scores_of_unread_outputs_for_the_truth(
    view_of: Callable[[str], RunView],
) -> None:
    notes = [find_analysis("shot_curve")(view_of(name)).attrs.get("note", "") for name in ("answer", "bare")]
    assert ["20 of 40 outputs unread, which count as lenient scores them" in note for note in notes] == [
        True,
        False,
    ]
