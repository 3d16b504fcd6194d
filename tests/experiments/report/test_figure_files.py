import re
import resource
import sys
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from PIL import Image as PILImage
from written_run import GREEDY

from experiments.cli.main import main
from experiments.report import figures, tables
from experiments.report.facets import MAX_LINES, divide, spread_out
from experiments.report.figure_files import draw_task
from experiments.results.view_run import view_run
from experiments.stats.intervals import Estimate

RETRIEVERS = ("random", "knn", "mmr")


@pytest.fixture(scope="module")
def run(writer, tmp_path_factory):
    """Three retrievers by three decodings: nine lines."""
    return writer(
        tmp_path_factory.mktemp("figures") / "run", queries=8, shots=(0, 2, 4), retrievers=RETRIEVERS, tasks=("shapes",)
    )


@pytest.fixture(scope="module")
def table(run):
    return tables.task_tables(view_run(run))[0]


def test_many_arms_are_divided_by_an_axis_into_panels_of_few_lines(table):
    facets = divide(table)
    assert [facet.caption for facet in facets] == list(RETRIEVERS)
    assert all(sum(not row.baseline for row in facet.table.rows) <= MAX_LINES for facet in facets)
    arms = [row for facet in facets for row in facet.table.rows if not row.baseline]
    assert sorted(row.labels for row in arms) == sorted(row.labels for row in table.rows if not row.baseline)
    assert [facets[1].name(row) for row in facets[1].table.rows] == ["greedy", "vcd", "mask_only(vcd)", "vote"]


def test_few_arms_are_one_panel(written):
    run = written(queries=4, decodings=(GREEDY,), tasks=("shapes",))
    (facet,) = divide(tables.task_tables(view_run(run))[0])
    assert facet.caption == ""
    assert [facet.name(row) for row in facet.table.rows][:2] == ["random", "knn"]


def test_baselines_have_their_names_if_all_samples_of_the_arms_failed(table):
    baselines = tuple(row for row in table.rows if row.baseline)
    (facet,) = divide(replace(table, rows=baselines))
    assert [facet.name(row) for row in baselines] == ["vote, random", "vote, knn", "vote, mmr"]


def test_labels_keep_their_order_and_their_distance():
    spread = spread_out([0.5, 0.52, 0.9, 0.51], 0.1, 0, 1)
    assert sorted(range(4), key=spread.__getitem__) == [0, 3, 1, 2]
    assert spread[2] == 0.9
    ordered = sorted(spread)
    assert min(b - a for a, b in pairwise(ordered)) >= 0.1 - 1e-12
    assert sum(spread[i] for i in (0, 1, 3)) == pytest.approx(0.5 + 0.52 + 0.51)


def test_labels_stay_inside_the_panel():
    assert spread_out([0.99, 1.0, 1.0, 0.2], 0.1, 0, 1) == pytest.approx([0.8, 0.9, 1.0, 0.2])
    assert spread_out([0.0, 0.01, 0.5], 0.1, 0, 1) == pytest.approx([0.0, 0.1, 0.5])
    assert spread_out([0.85, 1.0, 1.0], 0.1, 0, 1) == pytest.approx([0.8, 0.9, 1.0])


def test_no_label_is_cut_at_the_edge_of_its_panel(table):
    """Arms at the ceiling: letters of 11 pixels are at most 7.3 pixels wide on average in common fonts."""
    best = Estimate(1.0, 1.0, 1.0, 8, 8)
    top = replace(table, rows=tuple(replace(r, cells=dict.fromkeys(r.cells, best)) for r in table.rows))
    panels = figures.draw_panels(top, figures.assign_line_styles([top]), "lenient accuracy")
    labels = re.findall(r'<text ([^>]*class="label[^>]*)><title>[^<]*</title>([^<]*)<', "".join(p for _, p in panels))
    assert labels
    for attributes, text in labels:
        x, y = (float(re.search(rf'\b{name}="([\d.]+)"', attributes)[1]) for name in "xy")
        assert 11 <= y <= figures.HEIGHT
        assert x + 7.2 * len(text) <= figures.WIDTH


def test_a_figure_has_axis_titles_and_the_scores_of_the_table(table):
    looks = figures.assign_line_styles([table])
    figure = draw_task(table, looks, "lenient accuracy")
    panels = [panel for panel in figure.axes if panel.axison]
    assert panels[0].get_ylabel() == "lenient accuracy (mean, 95 % interval)"
    assert {panel.get_xlabel() for panel in panels} == {"demonstrations (shots)"}
    assert len({panel.get_ylim() for panel in panels}) == 1
    heights = [list(line.get_ydata()) for panel in panels for line in panel.get_lines() if len(line.get_ydata()) == 3]
    expected = [[row.cells[k].mean for k in table.shots] for row in table.rows if not row.baseline]
    assert sorted(map(tuple, heights)) == sorted(map(tuple, expected))


def test_one_number_of_shots_is_a_point_per_arm(written):
    run = written(queries=8, shots=(2,), tasks=("shapes",))
    table = tables.task_tables(view_run(run))[0]
    figure = draw_task(table, figures.assign_line_styles([table]), "lenient accuracy")
    ticks = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert ticks[0] == "random, greedy"
    assert figure.axes[0].get_xlabel() == "lenient accuracy (mean, 95 % interval)"


def test_the_command_writes_every_format_with_fonts_and_equal_runs_give_equal_files(run, tmp_path, capsys):
    first, second = tmp_path / "a", tmp_path / "b"
    assert main(["figures", str(run.path), "--out", str(first)]) == 0
    assert capsys.readouterr().out.split() == [str(first / f"shapes.{kind}") for kind in ("pdf", "png", "svg")]
    pdf = (first / "shapes.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/FontFile2" in pdf  # a TrueType font in the file
    with PILImage.open(first / "shapes.png") as image:
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        assert image.width > 1500
    svg = ElementTree.parse(first / "shapes.svg").getroot()
    assert svg.tag.endswith("svg")
    assert not list(svg.iter("{http://www.w3.org/2000/svg}text"))  # outlines
    assert main(["figures", str(run.path), "--out", str(second), "--format", "pdf", "--format", "svg"]) == 0
    assert sorted(path.name for path in second.iterdir()) == ["shapes.pdf", "shapes.svg"]
    assert (second / "shapes.pdf").read_bytes() == pdf
    assert (second / "shapes.svg").read_bytes() == (first / "shapes.svg").read_bytes()


def test_figures_by_a_column_have_its_values(run, tmp_path):
    assert main(["figures", str(run.path), "--out", str(tmp_path), "--format", "svg", "--by", "answer"]) == 0


def test_mistakes_are_sentences(run, tmp_path, capsys, monkeypatch):
    assert main(["figures", str(run.path), "--format", "gif"]) == 2
    assert capsys.readouterr().err == "--format is pdf, png, svg, not 'gif'.\n"
    (tmp_path / "file").write_text("")
    assert main(["figures", str(run.path), "--out", str(tmp_path / "file"), "--format", "svg"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["figures", str(run.path), "--out", str(tmp_path / "x")]) == 2
    assert "pip install 'mm-icl[figures]'" in capsys.readouterr().err


def test_a_full_disk_is_a_sentence_and_leaves_no_part_of_a_file(run, tmp_path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        status = main(["figures", str(run.path), "--out", str(tmp_path / "x")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 2
    assert "shapes.pdf cannot be written: File too large" in capsys.readouterr().err
    assert list((tmp_path / "x").iterdir()) == []
