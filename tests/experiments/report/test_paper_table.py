import re
import shutil
import subprocess
from dataclasses import replace

import pandas as pd
import pytest

from experiments.cli.main import main
from experiments.report.html import write_report
from experiments.report.paper_table import (
    EMPTY,
    PaperTable,
    ScoreCell,
    latex_text,
    numbers_frame,
    paper_table,
    to_html,
    to_latex,
    to_markdown,
)
from experiments.results.view_run import view_run
from icl.errors import ConfigError

CELL = re.compile(r"(1?\.\d{3}) \[(1?\.\d\d), (1?\.\d\d)\]")


@pytest.fixture(scope="module")
def scored(writer, tmp_path_factory):
    """A run in which demonstrations help on one task and change nothing on the other."""
    return writer(tmp_path_factory.mktemp("table") / "run", queries=60, shots=(0, 4))


@pytest.fixture(scope="module")
def view(scored):
    return view_run(scored, to={"shots": 0})


@pytest.fixture(scope="module")
def stored(view):
    """The tables that the report of the view writes."""
    write_report(view, per_cell=1)
    return view.path / "tables"


@pytest.fixture(scope="module")
def table(view):
    return paper_table(view)


def by_labels(table):
    """The cells by the labels of row and column."""
    return {
        (*labels, heading): cell
        for labels, cells in table.rows
        for heading, cell in zip(table.columns, cells, strict=True)
    }


def test_scores_of_a_run_equal_the_table_of_the_report(scored, stored):
    reported = pd.read_csv(stored / "scores.csv", keep_default_na=False, na_values=[""])
    pd.testing.assert_frame_equal(scored.scores(), reported, check_dtype=False)
    assert not scored.scores("strict")["mean"].equals(reported["mean"])


def test_cells_are_the_scores_of_the_report(table, stored):
    cells = by_labels(table)
    records = pd.read_csv(stored / "scores.csv", keep_default_na=False).to_dict("records")
    assert len([cell for cell in cells.values() if cell.text != EMPTY]) == len(records)
    for row in records:
        mark = "†" if row["decoding"].startswith("mask_only") else ""
        cell = cells[row["task"], row["retriever"], f"{row['decoding']}{mark}", f"{row['shots']} shots"]
        numbers = [float(number) for number in CELL.fullmatch(cell.text).groups()]
        assert numbers == pytest.approx([row["mean"], row["low"], row["high"]], abs=0.0051)
        assert numbers[0] == pytest.approx(row["mean"], abs=0.00051)


def test_a_cell_is_bold_exactly_if_the_corrected_p_of_a_gain_is_significant(table, stored):
    cells = by_labels(table)
    compared = pd.read_csv(stored / "differences.csv", keep_default_na=False).to_dict("records")
    better = {
        (row["task"], row["retriever"], row["decoding"], f"{row['shots']} shots")
        for row in compared
        if float(row["p_corrected"]) <= 0.05 and row["difference"] > 0
    }
    assert 0 < len(better) < len(compared)
    bold = {tuple(label.rstrip("†") for label in labels) for labels, cell in cells.items() if cell.bold}
    assert bold == better


def test_a_significant_loss_is_not_bold(writer, tmp_path):
    view = view_run(
        writer(tmp_path / "run", queries=40, shots=(0, 4), better="lower", tasks=("binding, 2-way",)), to={"shots": 0}
    )
    frame = numbers_frame(view)
    assert "worse" in set(frame["verdict"])
    assert "better" not in set(frame["verdict"])
    assert not any(cell.bold for cell in by_labels(paper_table(view)).values())


def test_latex_has_the_rules_of_booktabs_and_escapes_labels(table):
    text = to_latex(table)
    assert [text.count(rule) for rule in ("\\toprule", "\\midrule", "\\bottomrule")] == [1, 1, 1]
    assert "mask\\_only(vcd)$^{\\dagger}$" in text
    assert not re.search(r"(?<!\\)_", text)
    assert text.count("\\textbf{") == sum(cell.bold for cell in by_labels(table).values()) > 0


def test_special_characters_of_latex_are_text():
    assert latex_text("50% & a_b #1 {x} $y ^~\\") == (
        "50\\% \\& a\\_b \\#1 \\{x\\} \\$y \\textasciicircum{}\\textasciitilde{}\\textbackslash{}"
    )
    assert latex_text("[blank]") == "{[}blank]"  # else an argument of the line break before it
    assert latex_text("a [b]") == "a [b]"


def test_markdown_and_html_escape_what_a_label_may_contain():
    table = PaperTable(("decoding",), ("a|b",), ((("<b>mask_only",), (ScoreCell(".5", bold=True),)),), ("n < 3.",))
    assert to_markdown(table) == (
        "| decoding | a\\|b |\n| --- | --- |\n| &lt;b&gt;mask\\_only | **.5** |\n\nn &lt; 3.\n"
    )
    page = to_html(table)
    assert "<td>&lt;b&gt;mask_only</td>" in page
    assert "<td><strong>.5</strong></td>" in page
    assert "<p>n &lt; 3.</p>" in page


def test_labels_that_repeat_are_blank_in_print_only():
    rows = [("a", "x"), ("a", "y"), ("b", "y")]
    table = PaperTable(("task", "decoding"), ("0 shots",), tuple((labels, (ScoreCell(".5"),)) for labels in rows), ())
    lines = to_markdown(table).splitlines()[2:5]
    assert lines == ["| a | x | .5 |", "|  | y | .5 |", "| b | y | .5 |"]


def test_rows_and_columns_take_any_axis_and_no_cell_is_an_average(view, table):
    other = paper_table(view, rows=["decoding"], columns="retriever")
    assert other.axes == ("decoding", "task", "shots")
    assert other.columns == ("none", "random", "knn")
    usual = [cell for cell in by_labels(table).values() if cell.text != EMPTY]
    turned = [cell for cell in by_labels(other).values() if cell.text != EMPTY]
    assert sorted(turned, key=str) == sorted(usual, key=str)


def test_the_footnote_says_n_seeds_test_and_family(table, stored):
    family = pd.read_csv(stored / "differences.csv")["family"].max()
    assert table.notes[:3] == (
        "lenient accuracy: mean [95 % interval]; n = 60 queries × 2 seeds.",
        f"Bold: better than 0 shots, p ≤ .05 (exact McNemar; Holm over {family} comparisons).",
        "† control of a strategy.",
    )


def test_a_run_whose_comparisons_are_those_of_looks_has_no_bold(view):
    info = {**view.info, "sessions": [{"state": "running"}], "sizes": [99] * len(view.info["cells"])}
    growing = replace(view, info=info)
    assert growing.is_sequential
    of_looks = paper_table(growing)
    assert not any(cell.bold for cell in by_labels(of_looks).values())
    assert any(note.startswith("No comparison: ") for note in of_looks.notes)


def test_a_table_of_one_arm_has_one_cell(written):
    run = written(
        queries=4, tasks=("shapes",), shots=(2,), retrievers=("knn",), decodings=({"strategy": {"name": "greedy"}},)
    )
    table = paper_table(view_run(run))
    assert (table.axes, table.columns, len(table.rows)) == (("decoding",), ("2 shots",), 1)
    assert "Bold" not in " ".join(table.notes)


def test_columns_are_at_most_fifty(view):
    many = view.scores.assign(order=[f"o{i % 51}" for i in range(len(view.scores))])
    with pytest.raises(
        ConfigError, match=r"'order' has 51 values, and a table has at most 50 columns\. .*--rows order"
    ):
        paper_table(replace(view, scores=many), columns="order")


def test_the_command_writes_each_format(scored, tmp_path, capsys):
    words = ["table", str(scored.path), "--to", "shots=0"]
    for name in ("latex", "markdown", "html", "csv"):
        assert main([*words, f"--{name}", "--out", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == f"wrote {tmp_path / name}\n"
    assert main(words) == 0
    assert capsys.readouterr().out == (tmp_path / "markdown").read_text()
    assert "\\toprule" in (tmp_path / "latex").read_text()
    assert (tmp_path / "html").read_text().startswith("<table")
    numbers = pd.read_csv(tmp_path / "csv", keep_default_na=False)
    assert set(numbers["verdict"]) == {"better", "open", ""}
    assert set(numbers[numbers["control"]]["decoding"]) == {"mask_only(vcd)"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--rows", "decodng"], "--rows: the run has no axis 'decodng'. Did you mean 'decoding'? Axes that vary: "),
        (["--columns", "x"], "--columns: the run has no axis 'x'. Axes that vary: task, "),
        (["--rows", "task", "--columns", "task"], "'task' is an axis of the rows"),
        (["--csv", "--html"], "--html and --csv are two formats"),
        (["--csv", "--rows", "task"], "leave out --rows and --columns"),
        (["--metric", "leniant"], "no score 'leniant'. Did you mean 'lenient'?"),
        (["--out", "no/folder/x.tex"], "x.tex cannot be written: "),
    ],
)
def test_a_mistake_is_one_sentence(scored, capsys, words, sentence):
    assert main(["table", str(scored.path), *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed (texlive-latex-base)")
def test_tex_compiles_the_table(table, tmp_path):
    labels = ("[blank]", '~$#{}^\\ <|> `a\' "b" *', "50 % & −1")
    special = replace(table, rows=((labels, tuple(ScoreCell() for _ in table.columns)), *table.rows))
    document = (
        f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{to_latex(special)}\\end{{document}}"
    )
    (tmp_path / "table.tex").write_text(document, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "table.tex"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "table.log").read_text(errors="replace")
