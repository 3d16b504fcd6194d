"""Figures: without style on a page, with fonts and a width on paper, and with the numbers of the frame."""

import re
import resource
from dataclasses import replace
from xml.etree import ElementTree

import pandas as pd
import pytest
from PIL import Image as PILImage
from written_run import GREEDY

from experiments.report.figure import Line, read_width
from experiments.report.section import Column, Section
from experiments.report.sections.analyses import FigureSpec, dot_figure
from experiments.report.sections.scores import MAX_LINES, scores_section
from experiments.results.view_run import view_run
from icl.errors import ConfigError, StoreError

HOSTILE = '</text><script>window.hacked=1</script> onload="x"\'&'
RETRIEVERS = ("random", "knn", "mmr")


@pytest.fixture(scope="module")
def section(writer, tmp_path_factory):
    """Three retrievers by three decodings: nine lines."""
    path = tmp_path_factory.mktemp("figures") / "run"
    how = {"retrievers": RETRIEVERS, "tasks": ("shapes", "binding, 2-way")}
    return scores_section(view_run(writer(path, queries=8, shots=(0, 2, 4), **how)))


def marks(svg):
    """The labels of the marks of an SVG."""
    symbols = [e for e in ElementTree.fromstring(svg).iter() if e.get("role") == "graphics-symbol"]
    return [e.get("aria-label") for e in symbols if e.get("aria-label") and e.get("aria-roledescription") != "axis"]


def test_every_mean_and_interval_of_the_frame_is_a_labeled_mark(section):
    labels = {label for _, svg in section.figure.page() for label in marks(svg)}
    rows = section.visible.dropna(subset=["mean"])
    for row in rows.to_dict("records"):
        name = ", ".join((row["retriever"], row["decoding"]))
        shots = f"{row['shots']} shots"
        assert f"{name}, {shots}: {row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in labels


def test_an_svg_of_a_page_has_attributes_only_and_its_colors_are_variables(section):
    for _, svg in section.figure.page():
        tree = ElementTree.fromstring(svg)
        tags = {element.tag.rpartition("}")[2] for element in tree.iter()}
        assert tags <= {"svg", "g", "path", "line", "text", "rect", "defs", "clipPath"}
        names = {name for element in tree.iter() for name in element.attrib}
        assert not [name for name in names if name.startswith("on") or name in ("style", "href")]
        assert " style=" not in svg
        assert not re.search(r"(fill|stroke)=\"#(?!none)", svg.replace('fill="#000"', "").replace('stroke="#000"', ""))
        assert "var(--c0)" in svg
        assert "var(--soft)" in svg


def test_hostile_labels_are_text():
    frame = pd.DataFrame([{"setting": HOSTILE, "layer": HOSTILE, "mass": 0.5, "low": 0.1, "high": 0.9}])
    figure = dot_figure(frame, FigureSpec(x="layer", y=("mass",), measure=HOSTILE))
    ((title, svg),) = figure.page()
    tree = ElementTree.fromstring(svg)
    assert title == HOSTILE
    assert not [e for e in tree.iter() if e.tag.endswith(("script", "img"))]
    assert not [name for e in tree.iter() for name in e.attrib if name.startswith("on")]
    assert any(HOSTILE in label for label in marks(svg))


def test_lines_differ_without_color_too(section):
    looks = [(line.dashes, line.mark) for name, line in section.figure.lines.items() if name.startswith("knn")]
    assert len(looks) == len(set(looks)) == 3
    assert {line.color for name, line in section.figure.lines.items() if name.startswith("knn")} == {1}
    assert Line(faint=True).mark not in {Line(dash=i).mark for i in range(6)}


def test_many_lines_are_divided_into_panels_with_one_key(viewed):
    retrievers = (*RETRIEVERS, "votek", "bm25")
    figure = scores_section(viewed(queries=4, retrievers=retrievers, tasks=("shapes",))).figure
    assert list(figure.panels) == [f"shapes: {name}" for name in retrievers]
    assert list(figure.lines) == ["greedy", "vcd", "vote"]
    assert (
        len({panel.to_dict()["layer"][0]["encoding"]["y"]["scale"]["domain"][1] for panel in figure.panels.values()})
        == 1
    )
    few = scores_section(viewed(queries=4, decodings=(GREEDY,))).figure
    assert (list(few.panels), len(few.lines) <= MAX_LINES) == (["shapes", "binding, 2-way"], True)


def test_one_number_of_shots_is_a_dot_per_arm(viewed):
    view = viewed(queries=8, shots=(2,), tasks=("shapes",))
    ((_, svg),) = scores_section(view).figure.page()
    assert "random, greedy" in svg
    assert "knn, vote" in svg
    assert len({*marks(svg)}) == 2 * 3


def test_files_have_fonts_and_equal_runs_give_equal_files(section, tmp_path):
    first = section.figure.write(tmp_path / "a" / "scores")
    assert [path.name for path in first] == ["scores.pdf", "scores.png", "scores.svg"]
    pdf = first[0].read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/FontFile" in pdf
    with PILImage.open(first[1]) as image:
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        assert image.width > 1500
    svg = first[2].read_text()
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "var(--" not in svg
    assert "knn, vcd" in svg  # the key
    second = section.figure.write(tmp_path / "b" / "scores", ["svg"])
    assert second[0].read_bytes() == first[2].read_bytes()
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["scores.svg"]


@pytest.mark.parametrize("width", [3.3, 7.0])
def test_a_figure_is_as_wide_as_asked_for(section, tmp_path, width):
    (path,) = section.figure.write(tmp_path / "scores", ["svg"], width)
    assert float(re.search(r'<svg[^>]* width="([\d.]+)"', path.read_text())[1]) == pytest.approx(72 * width, abs=3)


def test_widths_are_read_with_their_unit():
    assert (read_width("3.3in"), read_width("84 mm"), read_width("8.4cm")) == pytest.approx((3.3, 84 / 25.4, 84 / 25.4))
    for wrong in ("3.3", "wide", "-1in", "3px"):
        with pytest.raises(ConfigError, match=f"--width: '{wrong}' is no width. Examples: 3.3in, 84mm, 8.4cm"):
            read_width(wrong)


def test_a_width_without_room_for_axes_is_an_error(section):
    with pytest.raises(ConfigError, match=r"--width: 0\.5 inches have no room for a figure\. The smallest is 1\.5"):
        section.figure.paper(0.5)


def test_a_full_disk_is_a_sentence_and_leaves_no_part_of_a_file(section, tmp_path):
    section.figure.write(tmp_path / "warm" / "scores", ["pdf"])  # fonts and caches of the renderer
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        with pytest.raises(StoreError, match=r"scores\.pdf cannot be written: File too large"):
            section.figure.write(tmp_path / "x" / "scores")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "x").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        section.figure.write(tmp_path / "file" / "scores", ["svg"])


def test_a_notebook_shows_the_chart(section):
    bundle = section.figure._repr_mimebundle_()
    kinds = bundle[0] if isinstance(bundle, tuple) else bundle
    assert any("vega" in kind or "html" in kind for kind in kinds)


def test_a_section_without_rows_has_no_figure(section):
    assert replace(section, frame=section.frame[:0]).figure is None
    assert Section("x", "X", columns=[Column("a")]).figure is None
