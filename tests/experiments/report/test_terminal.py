import io

import pytest
from rich.console import Console

from experiments.report.comparison import print_comparison
from experiments.report.terminal import print_summary
from experiments.results.view_run import view_run
from experiments.stats.compare import compare
from experiments.stats.findings import Finding


def printed(run, width):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    print_summary(run, console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_everything_fits_the_width(written, width):
    text = printed(written(queries=8, shots=(0, 2, 4, 8)), width)
    assert max(map(len, text.split("controls  icl")[0].splitlines())) <= width
    assert "…" not in text


@pytest.mark.parametrize("width", [80, 88, 120])
def test_no_label_is_cut_where_the_table_is_wide(written, width):
    lines = printed(written(queries=8, shots=(0, 2, 4, 8)), width).splitlines()
    table = lines[: next(i for i, line in enumerate(lines) if line.startswith("What it shows"))]
    for label in ("greedy", "vcd", "mask_only(vcd)", "vote"):
        assert any(label in line.split() for line in table)
    for retriever in ("any", "random", "knn"):
        assert any(line.split()[0] == retriever or line == f"retriever {retriever}" for line in table if line.split())


def test_the_table_has_a_row_an_arm_and_the_vote(written):
    lines = printed(written(queries=8), 100).splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("retriever"))
    assert lines[head].split() == ["retriever", "decoding", "0", "shots", "2", "shots", "4", "shots"]
    firsts = [line.split()[0] for line in lines[head + 1 : head + 10]]
    assert firsts == ["any", "vcd", "mask_only(vcd)", "random", "vcd", "mask_only(vcd)", "knn", "vcd", "mask_only(vcd)"]
    assert lines[head + 4].startswith("random     greedy          ")  # the cell at 0 shots stands under "any"
    vote = next(line for line in lines if line.startswith("random") and "vote" in line)
    assert vote.split()[2] == "–"


def test_numbers_are_those_of_the_samples(written):
    run = written(queries=8)
    frame = run.samples()
    own = frame[(frame["task"] == "shapes") & (frame["shots"] == 0) & (frame["decoding"] == "greedy")]
    row = next(line for line in printed(run, 100).splitlines() if line.startswith("any") and "greedy" in line)
    assert row.split()[2] == f"{own['lenient'].mean():.3f}".lstrip("0")


def test_what_it_shows_and_the_reports_path_stand_at_the_end(written):
    run = written(queries=8)
    text = printed(run, 100)
    assert text.index("What it shows") < text.index("ICL gain") < text.index("Retrieval") < text.index("Decoding")
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


@pytest.mark.parametrize("correct", ["holm", "none"])
def test_a_correction_is_named_even_if_it_changes_no_p(written, correct):
    view = view_run(written(queries=4))
    table = compare(view.scores, view.to, view.metric, correct=correct, axes=view.axes)
    table[["p", "p_corrected"]] = 1.0
    out = io.StringIO()
    print_comparison(table, view, Console(file=out, width=120))
    assert (f"Holm over {len(table)} comparisons" in out.getvalue()) == (correct == "holm")


def test_the_end_points_to_the_controls_where_there_are_some(written):
    run = written(queries=4)
    assert f"controls  icl compare {run.path} --controls" in printed(run, 100)
    alone = [{"strategy": {"name": name}, "sampler": {"name": "greedy"}} for name in ("greedy", "vcd")]
    assert "--controls" not in printed(written("other", queries=4, decodings=alone), 100)


def test_of_many_findings_those_with_a_verdict_are_printed_and_the_rest_is_counted(written, monkeypatch):
    view = view_run(written(queries=3))
    texts = [
        Finding("Decoding", f"subject {i}", "claim", "", "", "better" if i in {5, 19} else "open") for i in range(20)
    ]
    monkeypatch.setattr(type(view), "findings", texts)
    lines = printed(view, 100).partition("What it shows")[2].splitlines()
    subjects = [line.split("subject ")[1].split(":")[0] for line in lines if "subject" in line]
    assert subjects == ["0", "1", "2", "3", "4", "5", "6", "19"]
    assert "and 12 more in the report" in "\n".join(lines)
