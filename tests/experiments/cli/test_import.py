from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness_logs import write_lmms


@pytest.fixture
def logs(tmp_path: Path) -> tuple[str, str]:
    plain = [1.0] * 12
    write_lmms(tmp_path / "plain", plain)
    write_lmms(tmp_path / "hot", [score * (i % 2) for i, score in enumerate(plain)])
    return "greedy=plain", "hot=hot"


def test_every_command_that_reads_a_run_reads_imported_logs(icl: Callable[..., Any], logs: tuple[str, str]) -> None:
    done = icl("import", "runs/pope", *logs, "--axis", "decoding")
    assert (done.status, done.out) == (0, "imported 24 samples in 2 cells, scores exact   runs/pope\n")
    assert "left out the metric 'pope_f1'" in done.err
    compared = icl("compare", "runs/pope")
    assert compared.status == 0
    assert "hot against greedy" in compared.out
    row = dict(
        zip(*(line.split(",") for line in icl("compare", "runs/pope", "--as", "csv").out.splitlines()), strict=True)
    )
    assert (row["right_to_wrong"], row["wrong_to_right"]) == ("6", "0")
    assert icl("report", "runs/pope").status == 0
    assert Path("runs/pope/report.html").stat().st_size > 10_000
    detail = icl("show", "runs/pope", "sample", "pope_mini-0")
    assert (detail.status, "Is there a 0?" in detail.out) == (0, True)
    assert icl("analyze", "runs/pope", "answer_forms").status == 0
    assert icl("show", "runs/pope", "scores").status == 0


def test_the_only_compared_arm_has_its_name_in_the_table(icl: Callable[..., Any], logs: tuple[str, str]) -> None:
    icl("import", "runs/pope", *logs)
    assert icl("compare", "runs/pope").out.splitlines()[0] == "hot against greedy: exact"


@pytest.mark.parametrize("path", ["runs/pope", "runs/pope/run.json"])
def test_an_imported_run_cannot_be_run(icl: Callable[..., Any], logs: tuple[str, str], path: str) -> None:
    icl("import", "runs/pope", *logs)
    refused = icl("run", path)
    assert refused.status == 2
    assert refused.err.startswith("runs/pope was imported from logs of another harness")
    assert refused.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plain"], "'plain' is not NAME=LOG"),
        (["a=plain", "a=hot"], "'a' is the name of two logs"),
        (["a=plain", "--axis", "shots"], "--axis is model or decoding, not 'shots'"),
        (["a=missing"], "missing does not exist"),
    ],
)
def test_wrong_arguments_get_a_sentence(
    icl: Callable[..., Any], logs: tuple[str, str], words: list[str], message: str
) -> None:
    refused = icl("import", "runs/x", *words)
    assert (refused.status, refused.err.startswith(message)) == (2, True)
    assert not Path("runs/x").exists()
