"""The table of controls in the terminal, on the page and as CSV."""

import io
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console

from experiments.cli.main import main
from experiments.report.controls import column_notes, controls_frame, effect_columns, page_sections, print_controls
from experiments.report.controls_page import render_controls_page
from experiments.report.html import write_report
from experiments.results.view_run import view_run


def printed(run, width):
    out = io.StringIO()
    print_controls(view_run(run), Console(file=out, width=width))
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_every_column_is_shown_at_any_width(written, width):
    text = printed(written(queries=12, traced=True), width)
    assert max(map(len, text.splitlines())) <= width
    rows = [line.split()[0] for line in text.splitlines() if line.startswith(("greedy", "vcd", "  mask_only"))]
    blocks = len(rows) // 6  # three arms of two tasks
    assert rows == ["greedy", "vcd", "mask_only"] * (2 * blocks)
    assert (blocks > 1) == (width < 200)
    for heading in ("strict", "lenient", "answers", "R→W/W→R", "other", "plausible", "changed", "length", "forwards"):
        assert heading in text
    assert "Does it beat all its controls?" in text
    assert "p after Holm over 4 comparisons" in text


def test_the_family_is_that_of_the_sentences(written):
    run = written(queries=12)
    view = view_run(run)
    sentences = [one.numbers for one in view.findings if one.topic == "Decoding"]
    assert sentences
    assert all("(Holm over 4" in numbers for numbers in sentences)
    assert {row.judgment.family for row in view.effects if row.judgment} == {4}


def test_the_page_has_the_table_with_its_transitions(written):
    run = written(queries=12, traced=True)
    text = write_report(run).report.read_text()
    assert '<section id="controls">' in text
    assert "right / R→W / W→R / wrong" in text
    view = view_run(run)
    row = next(row for row in view.effects if row.decoding == "vcd")
    moves = row.transitions
    assert f"{moves.still_right} / {moves.right_to_wrong} / {moves.wrong_to_right} / {moves.still_wrong}" in text
    assert row.judgment.words in text
    alone = written("plain", queries=4, decodings=({"strategy": {"name": "greedy"}, "sampler": {"name": "greedy"}},))
    assert '<section id="controls">' not in write_report(alone).report.read_text()


def test_an_arm_that_lacks_settings_has_the_reference_of_its_settings(written):
    view = view_run(written(queries=12))
    assert not [words for words in column_notes(view) if "alone" in words]
    there = {"over": "8 shots", "against": 0.9}
    vars(view)["effects"] = [replace(row, **there) if row.decoding == "vcd" else row for row in view.effects]
    first, second, *_ = column_notes(view)
    assert [words.split(" (")[0] for words in (first, second)] == ["† vcd", "† vcd"]
    assert first.endswith(": only over 8 shots, where greedy has .900")
    out = io.StringIO()
    print_controls(view, Console(file=out, width=200))
    assert [line.split()[0] for line in out.getvalue().splitlines() if line.split()[1:2] == ["†"]] == ["vcd", "vcd"]
    assert [[row["label"] for row in table["rows"]] for table in page_sections(view)] == [
        ["greedy", "vcd †", "mask_only"]
    ] * 2
    page = render_controls_page(view)
    assert page.count("| `vcd` † |") == 2
    assert page.count("† vcd (") == 2


def test_the_csv_has_numbers(written, capsys, tmp_path):
    run = written(queries=12, traced=True)
    path = tmp_path / "controls.csv"
    assert main(["compare", str(run.path), "--controls", "--csv", str(path)]) == 0
    capsys.readouterr()
    table = pd.read_csv(path)
    assert list(table["decoding"][:3]) == ["greedy", "vcd", "mask_only(vcd)"]
    assert list(table["of"][:3].fillna("")) == ["", "", "vcd"]
    assert (table["still_right"] + table["right_to_wrong"] + table["wrong_to_right"] + table["still_wrong"])[
        1
    ] == table["samples"][1]
    assert table["plausible_tokens"][1] == 1.5
    assert table["length"][1] == 2.0
    assert controls_frame(view_run(run))["lenient"][0] == pytest.approx(table["lenient"][0])


def test_colors_are_counted_and_the_two_that_moved_most_are_named(written):
    view = view_run(written(queries=12))
    columns = effect_columns(view, [row for row in view.effects if row.subject == view.effects[0].subject])
    assert all(cell.count("(") == 2 for cell in columns["answers"][1:])


def test_a_run_of_one_decoding_has_no_such_table(written, capsys):
    run = written(queries=4, decodings=({"strategy": {"name": "greedy"}, "sampler": {"name": "greedy"}},))
    assert main(["compare", str(run.path), "--controls", "--to", "shots=0"]) == 2
    assert "--controls: the run has a single decoding." in capsys.readouterr().err
