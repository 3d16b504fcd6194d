"""The table of controls: counts of its verdicts, and a row of each decoding with its numbers."""

from copy import copy
from dataclasses import replace

import pandas as pd
import pytest
from written_run import ONE_ARM, printed

from experiments.report.sections.controls import control_sentences, controls_frame, controls_section
from experiments.results.view_run import view_run


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_every_column_is_shown_at_any_width(viewed, width):
    text = printed(controls_section(viewed(queries=12, traced=True)), width)
    assert max(map(len, text.splitlines())) <= width
    rows = [line.split()[0] for line in text.splitlines() if line.startswith(("greedy", "vcd ", "· mask_only"))]
    assert rows == ["greedy", "vcd", "·"] * (len(rows) // 3)
    assert (len(rows) > 6) == (width < 120)
    for heading in ("strict", "lenient", "answers", "R→W", "W→R", "other", "plausible", "changed", "forwards"):
        assert heading in text
    assert "p after Holm over 4 comparisons" in " ".join(text.split())


def test_a_strategy_has_the_number_of_controls_that_it_beats(viewed):
    view = viewed(queries=12, traced=True)
    section = controls_section(view)
    judged = [row for row in view.effects if row.judgment]
    assert [one.claim for one in section.sentences] == [f"{r.subject}, vcd: {r.judgment.words}." for r in judged]
    assert len(judged) == 2
    assert section.folded == "vcd beats 0 of 1 control"
    assert [one.claim for one in control_sentences(view)] == ["vcd beats 0 of 1 control"] * 2
    assert "the closest, mask_only(vcd): " in next(control_sentences(view)).numbers


def test_the_family_is_that_of_the_sentences(viewed):
    view = viewed(queries=12)
    sentences = [one.numbers for one in view.findings if one.topic == "Decoding"]
    assert sentences
    assert all("(Holm over 4" in numbers for numbers in sentences)
    assert {row.judgment.family for row in view.effects if row.judgment} == {4}


def test_the_page_has_the_table_with_its_transitions(paged):
    page = paged(queries=12, traced=True)
    view, text = page.view, page.html
    assert '<section id="controls"' in text
    row = next(row for row in view.effects if row.decoding == "vcd")
    assert row.judgment.words in text
    table = controls_section(view).tables[0]
    moved = {head.text: cell.text for head, cell in zip(table.heads, table.rows[1][0], strict=True)}
    assert (moved["R→W"], moved["W→R"]) == (str(row.transitions.right_to_wrong), str(row.transitions.wrong_to_right))
    alone = paged(queries=3, **ONE_ARM)
    assert '<section id="controls"' not in alone.html
    assert controls_section(alone.view) is None


def test_an_arm_that_lacks_settings_has_the_reference_of_its_settings(viewed):
    view = copy(viewed(queries=12))
    assert not [words for words in controls_section(view).notes if "†" in words]
    there = {"over": "8 shots", "against": ".900"}
    vars(view)["effects"] = [replace(row, **there) if row.decoding == "vcd" else row for row in view.effects]
    section = controls_section(view)
    first, second = [words for words in section.notes if "†" in words]
    assert [words.split(" (")[0] for words in (first, second)] == ["† vcd", "† vcd"]
    assert first.endswith(": only over 8 shots, where greedy has .900")
    labels = [[row[0].text for row, _ in table.rows] for table in section.tables]
    assert labels == [["greedy", "vcd †", "· mask_only"]] * 2


def test_the_csv_has_numbers(paged):
    page = paged(queries=12, traced=True)
    view, files = page.view, page.files
    table = pd.read_csv(next(path for path in files.tables if path.name == "controls.csv"))
    assert list(table["decoding"][:3]) == ["greedy", "vcd", "mask_only(vcd)"]
    assert list(table["of"][:3].fillna("")) == ["", "", "vcd"]
    moved = table[["still_right", "right_to_wrong", "wrong_to_right", "still_wrong"]].sum(axis=1)
    assert moved[1] == table["samples"][1]
    assert table["plausible_tokens"][1] == 1.5
    assert table["length"][1] == 2.0
    assert controls_frame(view)["lenient"][0] == pytest.approx(table["lenient"][0])


def test_colors_are_counted_and_the_two_that_moved_most_are_named(viewed):
    frame = controls_section(viewed(queries=12)).frame
    assert all(cell.count("(") == 2 for cell in frame["answers"][1:3])


def test_names_are_no_markup(written):
    section = controls_section(view_run(written(queries=4, tasks=("<b>|x",))))
    assert "<b>" not in section.to_markdown()
