"""Runs, cards and vectors that release 0.2.0 wrote are read, and continued without computing anything again.

golden/runs_of_0_2_0.zip holds three studies with their run directories as that release left them: a grid with its card,
a study with `stop`, and a study with fitted vectors. Reports and figures are left out.
"""

import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from experiments.cli.main import main
from experiments.results.loaded_run import load_run

ARCHIVE = Path(__file__).parent / "golden" / "runs_of_0_2_0.zip"
READ_AGAIN = ("scores", "baselines", "scores_invocation", "unread")
SCORED_ALIKE = ["mean", "low", "high", "samples", "clusters"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The three studies, in the working directory."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stored_samples(run: Path) -> dict[str, list[dict[str, object]]]:
    """The stored samples of each cell, without scores: newer metrics score the stored answers again."""
    samples = dict[str, list[dict[str, object]]]()
    for path in sorted(run.glob("cells/*/0.jsonl")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        samples[path.parent.name] = [
            {key: value for key, value in line.items() if key not in READ_AGAIN} for line in lines
        ]
    return samples


@pytest.mark.parametrize("study", ["grid", "vectors"])
def test_a_run_is_continued_without_computing_a_sample(
    study: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stored_samples(folder / "runs" / study)
    assert sum(map(len, before.values())) == {"grid": 72, "vectors": 16}[study]
    assert main(["run", f"{study}.yaml"]) == 0
    assert "nothing to do" in "".join(capsys.readouterr())
    assert stored_samples(folder / "runs" / study) == before
    assert (folder / "runs" / study / "report.html").stat().st_size > 10_000


def test_scores_and_intervals_are_those_that_the_release_wrote(folder: Path) -> None:
    old = pd.read_csv(folder / "runs" / "grid" / "tables" / "scores.csv").set_index(["shots", "retriever", "decoding"])
    new = load_run(folder / "runs" / "grid").scores("lenient").set_index(["shots", "retriever", "decoding"])
    assert len(old) == 6
    for setting, row in old.iterrows():
        assert new.loc[setting, SCORED_ALIKE].astype(float).tolist() == pytest.approx(row[SCORED_ALIKE].tolist())


def test_a_card_of_the_release_is_compared_with_its_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "runs/grid", "--samples", "6"])
    output = capsys.readouterr().out
    assert "6 of 6 prompts, 6 of 6 answers" in output
    assert "every stored answer has the scores" in output


def test_a_stopped_run_is_shown_and_continued_only_with_its_own_scoring(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "stopped.yaml"]) == 2
    assert "stop: " in capsys.readouterr().err
    assert not load_run(folder / "runs" / "stopped").scores("lenient").empty
