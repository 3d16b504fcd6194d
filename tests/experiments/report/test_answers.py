"""Terminal, page and sentences say how the arms write their answers, how many give none, and what was cut."""

import re
from collections.abc import Callable
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.analyses import format_gain
from experiments.api import run
from experiments.report.page import answers_section, write_report
from experiments.report.sample_detail import print_sample
from experiments.report.terminal import print_summary
from experiments.results.run_view import RunView
from experiments.results.view_run import view_run
from icl.models.base import Request

Mapping = Callable[..., dict[str, Any]]


def bold_without_demonstrations(request: Request) -> str:
    """Always right: in bold without demonstrations, plain with them."""
    return request.gold[0] if request.demos else f"The answer is **{request.gold[0]}**."


def always_plain(request: Request) -> str:
    return request.gold[0]


def thinks_at_length(request: Request) -> str:
    """Nine words of reasoning; no answer for every second query."""
    answer = request.gold[0] if int(request.prompt.key.query[-1]) % 2 else ""
    return f"<think> one two three four five six seven eight nine </think> {answer}"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, mapping: Mapping) -> Callable[..., RunView]:
    folder = tmp_path_factory.mktemp("answers")

    @cache
    def make(answer: Callable[[Request], str], metric: str = "lenient", **keys: Any) -> RunView:
        model = {"name": "fake-scripted", "answer": f"{__file__}:{answer.__name__}"}
        config = mapping(model=model, metrics=["strict", "lenient"], name=f"{answer.__name__}-{metric}", **keys)
        config |= {"grid": {"shots": [0, 2]}, "compare": {"to": {"shots": 0}, "metric": metric}}
        return view_run(run(config, runs=folder, quiet=True))

    return make


def printed(write: Callable[[Console], None]) -> str:
    console = Console(width=200, file=StringIO())
    write(console)
    text = console.file.getvalue()  # type: ignore[attr-defined]  # the file is a StringIO
    return " ".join(text.split())


DIFFERENTLY = "The arms write their answers differently (0 shots: 100 % labeled; random at 2 shots: 100 % bare)"


def test_a_model_that_is_always_right_has_no_gain_and_the_sentence_says_why(ran: Callable[..., RunView]) -> None:
    view = ran(bold_without_demonstrations)
    (finding,) = [one for one in view.findings if one.topic in ("Answers", "ICL gain")]
    assert "every arm scores 1.000, so no gain can be measured. By strict scoring +1.000." in finding.sentence
    assert f"{DIFFERENTLY}, so this can be format: `format_gain` measures it." in finding.sentence
    assert finding.sentence in printed(lambda console: print_summary(view, console))
    (row,) = format_gain.analyze(view).to_dict("records")
    assert (row["format_gain"], row["gain_lenient"]) == (1.0, 0.0)


def test_the_sentence_of_a_strict_gain_names_the_wrapping(ran: Callable[..., RunView]) -> None:
    view = ran(bold_without_demonstrations, "strict")
    (gain,) = [one for one in view.findings if one.topic == "ICL gain"]
    assert gain.numbers.startswith("+1.000")
    assert f"By lenient scoring ±.000. {DIFFERENTLY}" in gain.sentence


def test_arms_that_write_alike_are_folded_away(ran: Callable[..., RunView]) -> None:
    view = ran(always_plain)
    section = answers_section(view)
    assert section is not None
    assert section.folded == "All arms write their answers alike (100 % bare), and every output gives an answer."
    assert not any("differently" in one.sentence for one in view.findings)
    page = write_report(view).report.read_text(encoding="utf-8")
    assert re.search(r"<details><summary>All arms write their answers alike", page)
    assert "form " not in printed(lambda console: print_sample(view, str(view.frame["query"][0]), {}, 0, console))


def test_each_arm_has_its_scores_and_forms_in_every_place(ran: Callable[..., RunView]) -> None:
    view = ran(bold_without_demonstrations)
    section = answers_section(view)
    assert section is not None
    assert [[cell.text for cell in row][-4:] for row, _ in section.tables[0].rows] == [
        [".000", "1.000", ".000", "100 % labeled"],
        ["1.000", "1.000", ".000", "100 % bare"],
    ]
    assert section.folded == "The arms write their answers differently"
    page = write_report(view).report.read_text(encoding="utf-8")
    assert "<summary>The arms write their answers differently</summary>" in page
    assert "100 % labeled" in page
    assert "no answer" in printed(section.print)
    query = str(view.frame["query"][0])
    text = printed(lambda console: print_sample(view, query, {"shots": "0"}, None, console))
    assert "form labeled; its arm: strict .000, lenient 1.000, 100 % labeled" in text


def test_what_was_cut_and_what_has_no_answer_is_a_note_in_page_and_terminal(ran: Callable[..., RunView]) -> None:
    view = ran(thinks_at_length, max_thinking_tokens=4)
    half, total = sum(int(query[-1]) % 2 == 0 for query in view.frame["query"]), len(view.frame)
    notes = [
        f"{half:,} of {total:,} outputs give no answer",
        f"the thinking of {total:,} of {total:,} outputs was cut at max_thinking_tokens",
    ]
    assert view.answer_notes == notes
    page = write_report(view).report.read_text(encoding="utf-8")
    assert all(note in printed(lambda console: print_summary(view, console)) for note in notes)
    assert all(note in page for note in notes)
    query = next(query for query in view.frame["query"] if int(query[-1]) % 2)
    text = printed(lambda console: print_sample(view, query, {}, None, console))
    assert "form bare, thinking cut at max_thinking_tokens; its arm: strict" in text
    section = answers_section(view)
    assert section is not None
    assert [head.text for head in section.tables[0].heads][-2:] == ["thinking cut", "forms"]
    assert {row[-2].text for row, _ in section.tables[0].rows} == {"1.000"}


def test_the_format_gain_is_measured_against_every_reference(tmp_path: Path, mapping: Mapping) -> None:
    model = {"name": "fake-scripted", "answer": f"{__file__}:bold_without_demonstrations"}
    config = mapping(model=model, metrics=["strict", "lenient"])
    view = view_run(
        run(config | {"grid": {"shots": [0, 2], "retriever": ["random", "knn"]}}, runs=tmp_path, quiet=True)
    )
    table = format_gain.analyze(view)
    against = list(zip(table["retriever"], table["against"], table["format_gain"], strict=True))
    assert against == [("random", "0 shots", 1.0), ("knn", "0 shots", 1.0), ("knn", "random", 0.0)]
