"""`icl optimize`: what it prints and writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.running import optimize as module

ICL = Callable[..., Any]
STUDY = """
    name: study
    task: {name: SHAPES, queries: 24}
    model: TOY
    shots: 3
    retriever: {name: knn, by: image, embedder: pixels}
"""


@pytest.fixture(scope="module", autouse=True)
def fewer_comparisons() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RANDOM_DRAWS", 1)
        yield


def test_no_dev_score_stands_without_the_held_out_one_in_any_format(
    icl: ICL, grid: Callable[[str], str], tmp_path: Path
) -> None:
    words = ("optimize", grid(STUDY), "--budget", "60", "--dev", "12")
    printed = icl(*words)
    assert printed.status == 0
    folder = tmp_path / "sets" / "study"
    assert {one.name for one in folder.iterdir()} >= {
        "calls.jsonl", "chat.json", "dspy.json", "report.html", "report.md", "set.json",
    }  # fmt: skip
    record = json.loads((folder / "set.json").read_text())
    for text in (printed.out, (folder / "report.md").read_text(), (folder / "report.html").read_text()):
        flat = " ".join(text.split()).replace("&#39;", "'")
        assert " → ".join(record["answers"]) in flat
        for line in ("Held out", "Winner's curse", "Permuted scores", "Price", "over the mean random set"):
            assert line in flat, line
        for row in ("race", "random", "permuted scores", "free: each label", "knn (study)"):
            assert row in flat, row
    assert f"path: {folder.relative_to(tmp_path) / 'set.json'}" in printed.out.replace("\n", "")
    again = icl(*words, "--as", "csv")
    assert again.status == 0
    rows = {line.split(",")[0]: line.split(",") for line in again.out.splitlines()}
    head = rows["name"]
    for result in record["results"]:
        assert float(rows[result["name"]][head.index("score")]) == pytest.approx(result["test"], abs=1e-6)
        assert ("dev_gain" in result) == bool(rows[result["name"]][head.index("dev_gain")])
        assert "test" in result


def test_a_second_search_says_that_the_queries_were_used(icl: ICL, grid: Callable[[str], str]) -> None:
    study = grid(STUDY)
    first = icl("optimize", study, "--budget", "60", "--dev", "12", "--as", "markdown").out
    assert "used again" not in first
    second = icl("optimize", study, "--budget", "61", "--dev", "12", "--as", "markdown").out
    assert "2 searches have used these held-out queries, or some of them" in second


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--budget", "0"], "Input should be greater than or equal to 1"),
        (["--budget", "10000000000"], "Input should be less than or equal to 1000000"),
        (["--budget", "9"], "--budget: 9 model calls do not rate 2 sets on 12 dev queries"),
        (["--budget", "60", "--search", "race,greedy"], "--budget: 60 model calls do not rate 2 sets"),
        (["--budget", "60", "--search", "race,luck"], "--search: no search 'luck'. race, random, greedy, exchange."),
        (["--budget", "60", "--objective", "bleu"], "--objective: no objective 'bleu'. p_gold, accuracy."),
        (["--budget", "60", "--as", "docx"], "--as is one of latex"),
        ([], "Missing option '--budget'"),
    ],
)
def test_a_wrong_word_ends_before_any_call(
    words: list[str], sentence: str, icl: ICL, grid: Callable[[str], str], tmp_path: Path
) -> None:
    printed = icl("optimize", grid(STUDY), "--dev", "12", *words)
    assert printed.status == 2
    assert sentence in " ".join(printed.err.split())
    assert not list(tmp_path.glob("sets/*/calls.jsonl"))
