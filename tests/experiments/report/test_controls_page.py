"""The table of controls as a page: its sentences are counts of its own verdicts, its cells the run's numbers."""

from experiments.cli.main import main
from experiments.report.controls_page import render_controls_page
from experiments.results.view_run import view_run


def test_the_page_counts_its_verdicts_and_has_a_row_a_strategy(written):
    view = view_run(written(queries=12, traced=True))
    text = render_controls_page(view)
    judged = [row for row in view.effects if row.judgment]
    assert f"Of {len(judged)} pairs of a strategy and a task" in text
    assert text.count("| `vcd` |") == len(judged) == 2
    assert "mask_only(vcd)" not in text.split("## Tables")[1]
    row = next(line for line in text.splitlines() if line.startswith("| `vcd` |"))
    transitions = judged[0].transitions
    assert f" | {transitions.right_to_wrong} / {transitions.wrong_to_right} | 1.5 | .500 | 2.0 | mask_only " in row
    assert row.endswith(f"| {judged[0].judgment.words} |")
    assert "p after Holm over 4 comparisons" in text
    assert text.index("    icl run") < text.index("## What it shows") < text.index("## Tables")


def test_names_are_no_markup(written):
    text = render_controls_page(view_run(written(queries=4, tasks=("<b>|x",))))
    assert "<b>" not in text


def test_the_command_writes_it_with_the_table_only(written, tmp_path, capsys):
    run, page = written(queries=4), tmp_path / "page.md"
    assert main(["compare", str(run.path), "--page", str(page)]) == 2
    assert "--page needs --controls." in capsys.readouterr().err
    assert main(["compare", str(run.path), "--controls", "--page", str(page)]) == 0
    assert f"wrote {page}" in capsys.readouterr().out
    assert page.read_text(encoding="utf-8").startswith("# ")
