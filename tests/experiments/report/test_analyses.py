"""The section of stored analyses: figures with captions, tables, commands, and nothing that no longer fits the run."""

import re
from xml.etree import ElementTree

import pandas as pd
import pytest

from experiments.analyses.stored_results import AnalysisOptions, Basis, read_basis, store_result
from experiments.report.page import write_report
from experiments.report.sections.analyses import (
    FigureSpec,
    analysis_section,
    analysis_sections,
    dot_figure,
    figure_caption,
    figure_spec,
    measured_points,
)
from experiments.results.view_run import view_run
from icl.errors import ConfigError

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>\"'&"
ROWS = [
    {"task": task, "layer": layer, "span": span, "mass": mass, "low": mass - 0.1, "high": mass + 0.1, "n": n}
    for task, layer, span, mass, n in (
        ("a", 0, "images", 0.2, 7), ("a", 0, "answers", 0.3, 7), ("a", 1, "images", 0.4, 8), ("b", 0, "images", 0.5, 7)
    )
]  # fmt: skip
FIGURE = {"x": "layer", "y": ["mass"], "by": "span", "measure": "mass", "n": "prompts"}


def table(rows=ROWS, **attrs):
    frame = pd.DataFrame(rows)
    frame.attrs |= {"title": "Masses", "note": "a note", "figure": FIGURE, **attrs}
    return frame


def keep(run, frame, name="attention", basis=None, doc="layer: of the model"):
    return store_result(run, AnalysisOptions(name, queries=9), basis or read_basis(run), frame, doc)


@pytest.fixture(scope="module")
def page(writer, tmp_path_factory):
    """The page of a run with a result, one of other samples, one of a wrong figure, and one with hostile texts."""
    path = tmp_path_factory.mktemp("page") / "run"
    run = writer(path, queries=2, tasks=("shapes",), shots=(2,), retrievers=("random",))
    keep(path, table())
    older = read_basis(path)
    keep(path, table(title="Older"), "older", Basis({**older.cells, "f" * 16: "0"}, older.compare))
    keep(path, table(figure={**FIGURE, "x": "layers"}), "wrong")
    rows = [{**row, "span": HOSTILE, "task": HOSTILE} for row in ROWS]
    hostile = table(rows, title=HOSTILE, note=HOSTILE, figure={**FIGURE, "measure": HOSTILE, "n": HOSTILE})
    keep(path, hostile, f"x.py:{HOSTILE}", doc=HOSTILE)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("find_analysis", "analyze_by"):
            patch.setattr(f"experiments.analyses.catalog.{name}", lambda *_: pytest.fail("the report computed"))
        return write_report(run).report.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def section(page):
    return page[page.index('<section id="attention"') : page.index('<section id="samples">')]


def points(frame, **spec):
    """(row, line, mean, low, high) of the points of each panel."""
    data = measured_points(analysis_section(frame, "own").frame, FigureSpec(**spec))
    return {
        part: [tuple(row) for row in own[["row", "line", "mean", "low", "high"]].itertuples(index=False)]
        for part, own in data.groupby("part", sort=False)
    }


def test_a_run_without_stored_analyses_has_no_such_section(written):
    assert list(analysis_sections(view_run(written(queries=2)))) == []


def test_a_stored_analysis_has_figure_caption_table_command_and_definitions(page, section):
    own = section[: section.index("</section>")]
    assert 'href="#attention"' in page
    assert "icl analyze RUN attention --queries 9" in own
    assert "Mass by layer and span: mean with its 95 % interval, n = 7 to 8 prompts per point." in own
    assert "layer: of the model" in own
    assert "a note" in own
    assert re.findall(r"<figcaption>(.*?)</figcaption>", own) == ["a", "b"]
    assert own.count("<tr>") == 2 + len(ROWS)
    assert "[.100, .300]" in own


def test_a_result_of_other_samples_is_left_out_with_a_sentence(section):
    assert "Older" not in section
    assert (
        "older is not shown: since it was computed, 1 cell was removed. Compute it again: icl analyze RUN older "
        "--queries 9" in section
    )


def test_hostile_text_of_a_result_stays_text(page, section):
    assert page.count("<script>") == 1
    assert "<img src=x" not in page
    assert section.count("window.hacked=1") > 8


def test_a_figure_that_cannot_be_drawn_leaves_out_its_result(section):
    assert "wrong is not shown: " in section
    assert "Did you mean &#39;layer&#39;?" in section


def test_panels_have_a_point_per_row_and_measure_of_each_setting():
    panels = points(table(), **FIGURE)
    assert [(part, [(row, line, mean) for row, line, mean, *_ in own]) for part, own in panels.items()] == [
        ("a", [("0", "images", 0.2), ("0", "answers", 0.3), ("1", "images", 0.4)]),
        ("b", [("0", "images", 0.5)]),
    ]
    assert panels["b"][0][3] == pytest.approx(0.4)
    figure = dot_figure(analysis_section(table(), "own").frame, FigureSpec.model_validate(FIGURE))
    assert list(figure.lines) == ["images", "answers"]
    assert [svg.count('aria-roledescription="point"') for _, svg in figure.page()] == [3, 1]
    for _, svg in figure.page():
        ElementTree.fromstring(svg)


def test_values_of_a_column_of_the_data_have_panels_of_their_own():
    rows = [{"category": name, "place": 1, "copied": value} for name, value in (("x", 0.1), ("y", 0.9))]
    panels = points(table(rows, figure=None, by=["category"]), x="place", y=("copied",), measure="share")
    assert {part: own[0][2] for part, own in panels.items()} == {"x": 0.1, "y": 0.9}


def test_bounds_are_those_of_each_measure_and_points_without_bounds_have_none():
    rows = [{"x": "r", "a": 1.0, "low": 0.5, "high": 2.0, "b": 3.0, "b_low": 2.5, "b_high": 3.5, "c": 4.0}]
    (own,) = points(table(rows, figure=None), x="x", y=("a", "b", "c"), measure="m").values()
    assert [point[3:] for point in own] == [(0.5, 2.0), (2.5, 3.5), (4.0, 4.0)]


def test_settings_of_few_rows_are_columns_and_constant_ones_a_note():
    rows = [{"task": "a", "shots": k, "order": "reversed", "place": "any", "copied": k / 8} for k in (4, 8)]
    section = analysis_section(table(rows, figure=None), "own")
    assert [head.text for head in section.tables[0].heads] == ["shots", "place", "copied"]
    assert "All rows: a, reversed." in section.notes
    many = [{**row, "place": str(i)} for row in rows for i in range(4)]
    assert [one.title for one in analysis_section(table(many, figure=None), "own").tables] == ["4 shots", "8 shots"]


def test_the_columns_of_a_table_are_formatted_by_their_values():
    rows = [
        {
            "drop": -0.1,
            "drop_low": -0.2,
            "drop_high": 0.0,
            "share": 0.5,
            "low": 0.25,
            "high": 1.0,
            "p": 0.0001,
            "n": 1200,
        }
    ]
    frame = table(rows, figure=None, signed=("drop", "drop_low", "drop_high"), heads={"share": "of all"})
    (own,) = analysis_section(frame, "own").tables
    assert [head.text for head in own.heads] == ["drop", "drop interval", "of all", "interval", "p", "n"]
    assert [cell.text for cell in own.rows[0][0]] == [
        "−.100",
        "[−.200, .000]",
        ".500",
        "[.250, 1.000]",
        "< .001",
        "1,200",
    ]


def test_a_caption_has_n_only_if_the_table_has():
    spec = FigureSpec(x="layer", y=("mass",), measure="mass", n="prompts")
    assert figure_caption(table(ROWS[:2]), spec) == "Mass by layer: mean with its 95 % interval, n = 7 prompts."
    for other in (table().drop(columns="n"), table().assign(n="few")):
        assert figure_caption(other, spec) == "Mass by layer: mean with its 95 % interval."


@pytest.mark.parametrize(
    ("figure", "problem"),
    [
        ({"x": "layer", "y": ["mass"]}, "measure: field required"),
        ({**FIGURE, "z": 1}, "z: extra inputs are not permitted"),
        ({**FIGURE, "y": ["mass", "n"]}, "y must name one column"),
        ({**FIGURE, "y": []}, "y must name one column"),
        ({**FIGURE, "by": "spans"}, "names the column 'spans', which the table does not have. Did you mean 'span'"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_a_sentence(figure, problem):
    with pytest.raises(ConfigError, match=re.escape(problem)):
        figure_spec(table(figure=figure), "own")
