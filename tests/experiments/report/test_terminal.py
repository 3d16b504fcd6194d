"""The end of a run in the terminal: the answer, the scores, and where the report is."""

import io
import json
import re
from copy import copy

import pytest
from rich.console import Console
from written_run import ONE_ARM

from experiments.report.page import find_section
from experiments.report.sections.headline import findings_section, headline
from experiments.report.terminal import print_summary
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from experiments.stats.findings import Finding


def printed(run, width):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    print_summary(run, console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_everything_fits_the_width_and_every_label_is_there(viewed, width):
    text = printed(viewed(queries=8, shots=(0, 2, 4, 8)), width)
    lines = text.split("report  ")[0].splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    words = {word for line in lines for word in line.split()}
    assert {"greedy", "vcd", "vote", "random", "knn", "shapes"} <= words


def test_the_table_has_a_row_an_arm_and_the_vote(viewed):
    lines = printed(viewed(queries=6), 100).splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("retriever"))
    assert lines[head].split() == ["retriever", "decoding", "0", "shots", "2", "shots", "4", "shots"]
    firsts = [line.split()[0] for line in lines[head + 1 : head + 7]]
    assert firsts == ["random", "vcd", "vote", "knn", "vcd", "vote"]
    assert lines[head + 3].split()[1] == "–"  # the vote needs demonstrations


def test_numbers_are_those_of_the_samples(viewed):
    view = viewed(queries=6)
    frame = load_run(view.path).samples()
    own = frame[(frame["task"] == "shapes") & (frame["shots"] == 0) & (frame["decoding"] == "greedy")]
    row = next(line for line in printed(view, 100).splitlines() if line.startswith("random") and "greedy" in line)
    assert row.split()[2] == f"{own['lenient'].mean():.3f}".lstrip("0")


def test_the_answer_stands_first_and_the_reports_path_at_the_end(written):
    run = view_run(written(queries=8))
    text = printed(run, 100)
    assert text.startswith("Do demonstrations, their retrieval and vcd help tiny on shapes and binding, 2-way?")
    order = [
        text.index(words) for words in ("Do demonstrations help?", "Does retrieval help?", "Does vcd help?", "Scores")
    ]
    assert order == sorted(order)
    assert text.rstrip().endswith(f"report  not written yet: icl report {run.path}")
    (run.path / "report.html").write_text("")
    assert printed(run, 100).rstrip().endswith(f"report  {run.path / 'report.html'}")
    assert "vote: the majority vote of the same demonstrations, without a model" in text


def test_failed_samples_are_reported(written):
    text = printed(written(queries=8, failing={"shapes-0001": "no"}), 100)
    assert "30 samples failed" in text
    assert "icl show" in text


def test_markup_in_names_is_text(written):
    assert "[bold]task" in printed(written(queries=4, tasks=("[bold]task",)), 100)


def test_the_answer_to_a_part_has_the_numbers_of_its_comparison(viewed):
    view = viewed(queries=60, tasks=("binding, 2-way",), shots=(0, 4))
    first = headline(view).sentences[0]
    best = max(view.comparisons["ICL gain"], key=lambda one: one.mean)
    assert (first.asks, first.verdict) == ("Do demonstrations help?", best.verdict)
    assert f"{best.result.difference:+.3f}".replace("0.", ".") in first.numbers
    decoding = headline(view).sentences[-1]
    assert decoding.verdict == "open"
    assert decoding.claim.startswith("Not shown: vcd ")
    assert "It beats 0 of 1 control." in decoding.claim
    assert "could have found ±" in decoding.numbers


def test_numbers_of_one_of_several_settings_name_it(written):
    view = view_run(written(queries=20, tasks=("shapes",), models=("tiny", "other"), shots=(0, 4)))
    for one in headline(view).sentences:
        assert re.match(r".* on (tiny|other): ", one.claim), one.claim


def test_a_task_at_its_ceiling_cannot_tell_and_its_panel_comes_last(written):
    run = written(queries=8, saying={})
    for path in run.path.glob("cells/*/*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if line["query"].startswith("shapes"):
                line["scores"] = dict.fromkeys(line["scores"], 1.0)
                line["output"] = line["gold"][0]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    view = view_run(run)
    answer = headline(view)
    assert any(note.startswith("shapes: ceiling effect: every arm scores 1.000") for note in answer.notes)
    assert "shapes cannot tell." in answer.sentences[0].claim
    assert list(answer.figure.panels) == ["binding, 2-way", "shapes"]
    assert list(find_section(view, "scores").figure.panels) == ["shapes", "binding, 2-way"]


def test_every_finding_and_every_comparison_is_in_one_section(viewed):
    view = copy(viewed(queries=6))
    section = findings_section(view)
    tested = [c for own in view.comparisons.values() for c in own if c.result and not c.by_construction]
    assert len(section.frame) == len(tested)
    assert section.folded == f"{sum(c.verdict != 'open' for c in tested)} of {len(tested)} comparisons differ"
    texts = [Finding("Decoding", f"subject {i}", "claim", "", "", "open") for i in range(20)]
    vars(view)["findings"] = texts
    assert [one.claim for one in findings_section(view).sentences] == [f"subject {i}: claim" for i in range(20)]


def test_a_run_of_one_arm_has_an_answer_without_sentences(viewed):
    answer = headline(viewed(queries=3, **ONE_ARM))
    assert (answer.title, list(answer.sentences)) == ("run", [])
