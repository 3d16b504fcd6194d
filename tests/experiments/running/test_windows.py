"""An arm that fails alone does not stop the grid."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.results.loaded_run import load_run
from experiments.running import runner, windows
from experiments.running.run import run
from experiments.running.windows import FailingArms
from icl.errors import DataError
from icl.types import Sample

Mapping = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Broken:
    """A retriever that always fails."""

    needs = frozenset[str]()

    def fit(self, pool: Any, resources: Any) -> "Broken":
        return self

    def retrieve(self, queries: Any, k: int, policy: Any) -> Any:
        raise RuntimeError(f"no index for {queries[0].id}")


@pytest.fixture(autouse=True)
def _limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MAX_INITIAL_FAILURES", 3)
    monkeypatch.setattr(windows, "RETRIEVAL_BATCH", 2)
    monkeypatch.setattr(windows, "WINDOW_SAMPLES", 4)


BROKEN = f"{__file__}:Broken"


def test_one_arm_whose_retrieval_fails_leaves_the_others_running(mapping: Mapping, tmp_path: Path) -> None:
    config = load_config(mapping(grid={"retriever": ["random", BROKEN]}))
    done = run(config, tmp_path)
    frame = load_run(tmp_path / "t").samples()
    answered = frame[frame["failed"].isna()]
    assert set(answered["retriever"]) == {"random"}
    assert len(answered) == 6
    assert 3 <= done.failed < 6
    assert done.missing == 6 - done.failed
    assert len(done.warnings) == 1
    assert done.warnings[0].startswith("1 arm was given up, because all samples of it failed so far (retriever ")
    assert "no index for q-0" in done.warnings[0]
    session = load_run(tmp_path / "t").info["sessions"][-1]
    assert (session["state"], session["reason"]) == ("stopped", done.warnings[0])
    again = run(config, tmp_path)  # only the failing arm is left: it is tried again, and the run does not raise
    assert (again.present, again.computed, again.failed) == (6, again.failed, again.failed)


def test_the_exit_status_and_the_report_show_the_arm_that_was_given_up(
    mapping: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(json.dumps(mapping(grid={"retriever": ["random", "balanced", BROKEN]})))
    assert main(["run", "x.yaml"]) == 1
    output = capsys.readouterr()
    assert "1 arm was given up" in output.err
    assert "samples are missing. Run the same command to compute them." in output.err
    assert output.err.count("no index for") == 3  # the first sample, the count of its kind, the arm
    assert "The run is not finished (stopped: 1 arm was given up" in output.out
    assert main(["report", "runs/t"]) == 0
    assert "1 arm was given up" in Path("runs/t/report.html").read_text()
    assert main(["show", "runs/t", "failed"]) == 0
    assert "more of this kind, such as q-0" in capsys.readouterr().out


def test_arms_that_all_fail_stop_the_run_after_few_samples(mapping: Mapping, tmp_path: Path) -> None:
    config = load_config(mapping(retriever=BROKEN, grid={"decoding": ["greedy", {"name": "greedy", "label": "b"}]}))
    with pytest.raises(DataError, match=r"samples all failed; the last one: .*no index for"):
        run(config, tmp_path)


def cells(count: int) -> list[Any]:
    return [SimpleNamespace(digest=f"c{i}", labels={"retriever": f"r{i}", "seed": 0}) for i in range(count)]


def failing(count: int, limit: int) -> FailingArms:
    arms = FailingArms(cells(count), limit)
    arms.begin_group(arms.cells)
    return arms


def sample(cell: int, failed: str | None = "no image") -> Sample:
    return Sample(cell=f"c{cell}", query="q", seed=0, failed=failed)


def test_a_group_is_given_up_when_each_arm_has_failed_three_times_and_all_together_often() -> None:
    arms = failing(5, 10)
    for turn in range(3):
        for cell in range(5):
            assert not arms.given_up
            arms.add(sample(cell, f"reason {turn}"))
    assert arms.all_given_up
    few = failing(2, 20)
    for _ in range(9):
        few.add(sample(0))
        few.add(sample(1))
    assert not few.given_up
    few.add(sample(0))
    assert not few.given_up, "the other has failed nine times"
    few.add(sample(1))
    assert few.all_given_up


def test_one_answer_in_a_group_keeps_all_its_arms() -> None:
    arms = failing(3, 9)
    arms.add(sample(2, None))
    for _ in range(8):
        for cell in range(3):
            arms.add(sample(cell))
    assert not arms.given_up
    arms.add(sample(0))
    assert [arms.is_given_up(cell) for cell in arms.cells] == [True, False, False]
    assert not arms.all_given_up
    sentence, untried = arms.describe({"c0": {"a", "b"}, "c1": {"a"}, "c2": set()})
    assert untried == 2
    assert sentence == "1 arm was given up, because all samples of it failed so far (retriever r0): no image."
    assert arms.describe({"c0": set(), "c1": {"a"}, "c2": set()}) == ("", 0)
