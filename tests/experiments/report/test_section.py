"""What every section promises, whatever it is about: each renderer shows each number, and none cuts or adds one."""

import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import pytest
from written_run import printed

from experiments.report.page import find_section, sections
from experiments.report.rendering import load_template, render_body
from experiments.report.section import Column, Section, Sentence, Table, TableCell, latex_text, wrap_label
from experiments.results.view_run import view_run
from experiments.store.store import csv_text
from icl.errors import ConfigError

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1 style=color:red>\"'&|`*_"
LONG = "blocks(order=qap, instruction=long, instruction_at=within, request=Question: , response=Answer: )"
WIDTHS = [60, 80, 120, 200]
TEX = str.maketrans(dict.fromkeys("{}$\\", " "))


@pytest.fixture(scope="module")
def view(writer, tmp_path_factory):
    return view_run(writer(tmp_path_factory.mktemp("sections") / "run", queries=30, shots=(0, 2, 4), traced=True))


@pytest.fixture(scope="module")
def made(view):
    """Every section of a run, with the rows of controls; and one with labels that fit no terminal."""
    composers = (LONG, f"{LONG[:-1]}, x=1)")
    arms = [(composer, retriever, k) for composer in composers for retriever in ("random", "knn") for k in range(10)]
    frame = pd.DataFrame(arms, columns=["composer", "retriever", "shots"]).assign(task="a", low=0.4, high=0.6)
    frame["mean"] = 0.5 + frame["shots"] / 100
    columns = [Column("composer"), Column("retriever"), Column("mean", "shots", "estimate")]
    wide = Section("wide", "Wide", frame=frame, columns=columns, across="shots", parts="task")
    return [*(one.select(controls=True) for one in sections(view)), wide]


def cells(section: Section) -> list[TableCell]:
    return [cell for table in section.tables for row, _ in table.rows for cell in row]


def numbers(section: Section) -> set[str]:
    """The texts of all cells with numbers."""
    return {
        row[i].text
        for table in section.tables
        for row, _ in table.rows
        for i, head in enumerate(table.heads)
        if head.number and row[i].text
    }


def words(text: str) -> str:
    return "".join(text.split())


def test_every_number_is_in_every_output(made):

    assert len(made) > 9
    for section in made:
        page, markdown, latex = render_body(section), section.to_markdown(), section.to_latex()
        wide = printed(section, 10_000)
        plain = words(re.sub(r"<[^>]*>", "", page))
        for text in numbers(section):
            assert words(text) in words(wide)
            assert words(text.replace("<", "&lt;")) in plain
            assert text.replace("<", "&lt;") in markdown
            for part in text.split(" ["):
                assert latex_text(part.removesuffix("]")) in latex
        for sentence in section.sentences:
            assert words(sentence.claim) in words(wide)


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_too_wide_and_no_cell_is_cut(made, width):
    for section in made:
        text = printed(section, width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        left_out = text.partition("columns that do not fit: ")[2]
        for table in section.tables:
            blocks, out = table.of_text.fitted(width)
            assert all(words(name) in words(left_out) for name in out)
            heads = [head.text for block in blocks for head in block.heads if head.number]
            assert heads == [head.text for head in table.of_text.heads if head.number and head.text not in out]
            for block in blocks:
                for row, _ in block.rows:
                    for cell, head in zip(row, block.heads, strict=True):
                        assert not head.number or words(cell.text) in words(text)


def test_what_does_not_fit_is_named_and_only_spare_columns_are_left_out(view):
    (table, *_) = find_section(view, "differences").select(controls=True).tables
    (block,), out = table.of_text.fitted(60)
    assert out
    assert {head.text for head in table.heads if head.spare} >= set(out)
    assert [head.text for head in block.heads][-3:] == ["difference", "95 % interval", "p"]
    assert table.of_text.fitted(500) == ([table.of_text], [])


def test_a_table_is_the_same_after_its_frame_was_written_as_csv(made):
    for section in made:
        if section.frame is None:
            continue
        read = pd.read_csv(io.StringIO(csv_text(section.frame)), keep_default_na=False, na_values=[""])
        again = Section(**{**{f: getattr(section, f) for f in Section.__dataclass_fields__}, "frame": read})
        assert [(t.title, t.heads, t.rows) for t in again.tables] == [
            (t.title, t.heads, t.rows) for t in section.tables
        ]


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def hostile_section() -> Section:
    frame = pd.DataFrame({"task": [HOSTILE], HOSTILE: [HOSTILE], "x": [0.5], "low": [0.1], "high": [0.9]})
    columns = [Column(HOSTILE), Column("x", HOSTILE, "estimate", says=HOSTILE), Column("x", " ", "forest")]
    sentences = [Sentence(HOSTILE, HOSTILE, "better", HOSTILE)]
    return Section(HOSTILE, HOSTILE, sentences, frame, columns, parts="task", notes=[HOSTILE], folded=HOSTILE)


def test_a_page_has_no_style_script_or_handler_whatever_the_texts_are():
    parser = Tags()
    parser.feed(str(load_template("section.html.j2").module.whole(hostile_section(), False, False)))
    assert not parser.tags & {"script", "img", "style", "link", "a"}
    assert parser.tags >= {"table", "svg", "details"}
    assert not [name for name in parser.attributes if name.startswith("on") or name in ("style", "href", "src")]


def test_markdown_and_latex_escape_what_a_label_may_contain():
    markdown, latex = hostile_section().to_markdown(), hostile_section().to_latex()
    assert "<script" not in markdown
    assert "\\|\\`\\*\\_" in markdown
    row = next(line for line in markdown.splitlines() if ".500" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert not re.search(r"(?<!\\)[_&%#]", latex.replace(" & ", ""))
    assert latex_text("50% & a_b #1 {x} $y ^~\\") == (
        "50\\% \\& a\\_b \\#1 \\{x\\} \\$y \\textasciicircum{}\\textasciitilde{}\\textbackslash{}"
    )
    assert latex_text("[blank]") == "{[}blank]"  # else an argument of the line break before it
    assert latex_text("a [b]") == "a [b]"


def test_control_characters_do_not_reach_the_terminal():
    text = printed(Section("x", "\x1b[2J\x07title", [Sentence("\x1b[0m")], notes=["[bold]\x1b]"]), 80)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]" in text


def test_labels_break_before_brackets_and_after_commas_and_lose_nothing():
    assert wrap_label("temperature_matched(vcd)", 20).split("\n") == ["temperature_matched", "(vcd)"]
    for width in (3, 10, 25):
        lines = wrap_label(LONG, width).split("\n")
        assert words("".join(lines)) == words(LONG)
        assert max(map(len, lines)) <= width


def test_a_label_that_repeats_is_printed_once():
    frame = pd.DataFrame({"task": list("aab"), "decoding": list("xyy"), "p": [0.5, 0.2, 0.1]})
    section = Section("t", "T", frame=frame, columns=[Column("task"), Column("decoding"), Column("p", kind="p")])
    assert [line.split() for line in printed(section, 80).splitlines()[2:]] == [
        ["a", "x", ".50"],
        ["y", ".20"],
        ["b", "y", ".10"],
    ]
    lines = section.to_latex().splitlines()
    assert [line for line in lines if "&" in line][1:] == ["a & x & .50 \\\\", " & y & .20 \\\\", "b & y & .10 \\\\"]
    assert lines.count("\\addlinespace") == 1


def test_bold_follows_its_column_and_a_missing_value_is_not_bold():
    frame = pd.DataFrame({"arm": list("abc"), "x": [0.1, 0.2, None], "sure": [True, None, None]})
    section = Section("t", "T", frame=frame, columns=[Column("arm"), Column("x", kind="share", bold="sure")])
    assert [(cell.text, cell.bold) for cell in cells(section)[1::2]] == [(".100", True), (".200", False), ("–", False)]
    assert "**.100**" in section.to_markdown()
    assert "\\textbf{.100}" in section.to_latex()


def test_rows_are_selected_by_their_settings(view):
    scores = find_section(view, "scores")
    assert not any("mask_only" in cell.text for cell in cells(scores))
    assert any("mask_only" in cell.text for cell in cells(scores.select(controls=True)))
    assert scores.frame["decoding"].eq("mask_only(vcd)").any()
    some = scores.select({"retriever": "knn", "shots": "0", "task": "shapes"})
    assert [row[0].text for row, _ in some.tables[0].rows] == ["greedy", "vcd"]
    assert set(some.visible["retriever"]) == {"knn"}
    assert some.figure is not None
    with pytest.raises(ConfigError, match=r"--arm: the run has no axis 'shot'\. Did you mean 'shots'\?"):
        scores.select({"shot": "4"})
    with pytest.raises(ConfigError, match="--arm"):
        scores.select({"retriever": "kn"})


def test_rows_and_columns_take_any_axis_and_no_cell_is_an_average(view):
    scores = find_section(view, "scores").select(controls=True)
    other = scores.turned(["decoding"], "retriever")
    (table,) = other.tables
    assert [head.text for head in table.heads] == ["decoding", "task", "shots", "random", "knn"]
    usual = {cell.text for cell in cells(scores) if "[" in cell.text}
    assert {cell.text for cell in cells(other) if "[" in cell.text} == usual
    assert scores.turned() is scores
    for rows, columns, sentence in (
        (["decodng"], "", r"--rows: the run has no axis 'decodng'\. Did you mean 'decoding'\? Axes that vary: "),
        ([], "x", r"--columns: the run has no axis 'x'\. Axes that vary: task, "),
        (["task"], "task", "'task' is an axis of the rows"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            scores.turned(rows, columns)


def test_columns_are_at_most_fifty():
    frame = pd.DataFrame({"order": [f"o{i}" for i in range(51)], "shots": 1, "mean": 0.5, "low": 0.4, "high": 0.6})
    columns = [Column("order"), Column("mean", "shots", "estimate")]
    section = Section("t", "T", frame=frame, columns=columns, across="shots")
    with pytest.raises(
        ConfigError, match=r"'order' has 51 values, and a table has at most 50 columns\. .*--rows order"
    ):
        section.turned(columns="order")


def test_a_row_of_no_value_stands_in_the_rows_of_all_values():
    frame = pd.DataFrame(
        {"r": ["none", "a", "b"], "d": ["x", "x", "x"], "k": [0, 2, 2], "m": [0.1, 0.2, 0.3], "low": 0.0, "high": 1.0}
    )
    columns = [Column("r"), Column("d"), Column("m", "shots", "estimate")]
    section = Section("t", "T", frame=frame, columns=columns, across="k", shared=("r",))
    assert [[cell.main for cell in row] for row, _ in section.tables[0].rows] == [
        ["a", ".100", ".200"],
        ["b", ".100", ".300"],
    ]
    assert len(section.frame) == 3
    alone = Section("t", "T", frame=frame[:1], columns=columns, across="k", shared=("r",))
    assert [[cell.main for cell in row] for row, _ in alone.tables[0].rows] == [["x", ".100"]]


def test_a_narrow_interval_has_its_estimate_inside():
    frame = pd.DataFrame({"r": ["a", "b"], "m": [0.998, 0.5], "low": [0.9955, 0.41], "high": [1.0, 0.59]})
    section = Section("t", "T", frame=frame, columns=[Column("r"), Column("m", "shots", "estimate")])
    assert [cells[1].interval for cells, _ in section.tables[0].rows] == ["[.996, 1.000]", "[.41, .59]"]


def test_blocks_of_columns_have_the_labels_of_their_rows():
    heads = [Column(f"n{i}", kind="share") for i in range(9)]
    frame = pd.DataFrame({"arm": ["a", "b"], **{f"n{i}": [i / 10, i / 20] for i in range(9)}})
    (table,) = Section("t", "T", frame=frame, columns=[Column("arm"), *heads]).tables
    blocks, out = table.fitted(30)
    assert not out
    assert len(blocks) > 1
    assert all(isinstance(block, Table) and [row[0].text for row, _ in block.rows] == ["a", "b"] for block in blocks)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed (texlive-latex-base)")
def test_tex_compiles_every_section(made, tmp_path):
    frame = pd.DataFrame({"label": ["[blank]", '~$#{}^\\ <|> `a\' "b" *', "50 % & −1"], "x": [0.1, 0.2, 0.3]})
    special = Section("s", "S", frame=frame, columns=[Column("label"), Column("x", kind="share")])
    text = "\n".join(one.to_latex() for one in [*made, special])
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{text}\\end{{document}}"
    (tmp_path / "table.tex").write_text(document, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "table.tex"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "table.log").read_text(errors="replace")


def test_the_section_of_a_name_or_the_names(view):
    assert find_section(view, "answer").title.startswith("Do ")
    with pytest.raises(
        ConfigError, match=r"the run has no section 'score'\. Did you mean 'scores'\? Sections: answer, "
    ):
        find_section(view, "score")
