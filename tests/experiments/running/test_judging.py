"""A judge answers after the samples of a run, once for each distinct answer, and its controls are stored."""

import json
from pathlib import Path
from typing import Any

import pytest
from documented_rows import write_documented_rows

import icl
from experiments.config.config import load_config
from experiments.results.loaded_run import Run
from experiments.running.judging import describe_controls
from experiments.running.run import run
from experiments.terminal.progress import SilentProgress
from icl.errors import ConfigError, StoreError

JUDGE = '''
from dataclasses import dataclass
from pathlib import Path
from icl.errors import ModelError
from icl.models.fake import FakeModel


@dataclass(frozen=True, kw_only=True)
class Judge(FakeModel):
    """Compares the two lines, counts its calls, and fails or says the same if a file tells it to."""

    folder: str
    constant: str = ""

    def answer_to(self, request):
        with (Path(self.folder) / "calls").open("a") as file:
            file.write("x")
        if (Path(self.folder) / "down").exists():
            raise ModelError("the endpoint is down.")
        lines = dict(line.split(": ", 1) for line in request.prompt.text.splitlines() if ": " in line)
        answer = lines.get("Answer to check", "")
        return self.constant or ("yes" if answer in lines["Accepted answers"].split(" / ") else "no")
'''


@pytest.fixture
def config(tmp_path: Path, mapping: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "judge.py").write_text(JUDGE)

    def make(constant: str = "", **keys: Any) -> dict[str, Any]:
        node = {"name": f"{tmp_path / 'judge.py'}:Judge", "folder": str(tmp_path), "constant": constant}
        metrics = ["strict", {"name": "judge", "judge": node}]
        half = {"name": "fake-gold", "accuracy": 0.5}
        return mapping(**{"model": half, "grid": {"shots": [0, 2]}, "seeds": [0, 1], "metrics": metrics, **keys})

    return make


def start(config: dict[str, Any], folder: Path) -> tuple[Run, list[str]]:
    progress = SilentProgress()
    outcome = run(load_config(config), folder, progress)
    return icl.load_run(outcome.folder, trust=True), progress.notes


def calls(folder: Path) -> int:
    return len((folder / "calls").read_text()) if (folder / "calls").exists() else 0


def test_equal_answers_are_judged_once_and_never_again(config: Any, tmp_path: Path) -> None:
    first, notes = start(config(), tmp_path)
    frame = first.samples()
    assert list(frame["judge"]) == list(frame["strict"])
    assert 0 < frame["judge"].mean() < 1
    assert frame.attrs["accuracies"] == ("strict", "judge")
    needed = calls(tmp_path)
    assert needed < len(frame) + 4 * frame["query"].nunique()
    assert any("calls 6 of 6 accepted answers, 0 of 6 empty answers" in note for note in notes)
    again, notes = start(config(), tmp_path)
    assert (calls(tmp_path), notes) == (needed, [])
    other, _ = start(config(name="u"), tmp_path)
    assert calls(tmp_path) == needed
    assert list(other.samples()["judge"]) == list(again.samples()["judge"])


def test_a_judge_that_fails_loses_no_sample_and_is_asked_again(config: Any, tmp_path: Path) -> None:
    (tmp_path / "down").touch()
    run_, notes = start(config(), tmp_path)
    frame = run_.samples()
    assert frame["failed"].isna().all()
    assert frame["judge"].isna().all()
    assert any("have no verdict (the endpoint is down). Run again" in note for note in notes)
    (tmp_path / "down").unlink()
    frame = start(config(), tmp_path)[0].samples()
    assert list(frame["judge"]) == list(frame["strict"])


def test_a_judge_is_added_to_a_finished_run_and_answers_stay(config: Any, tmp_path: Path) -> None:
    before = start(config(metrics=["strict"]), tmp_path)[0].samples()
    after = start(config(), tmp_path)[0].samples()
    assert list(after["output"]) == list(before["output"])
    assert list(after["judge"]) == list(before["strict"])


def test_another_metric_keeps_the_verdicts_without_their_cache(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = start(config(), tmp_path)[0].samples()
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "another machine"))
    (tmp_path / "down").touch()
    metrics = [*config()["metrics"], "lenient"]
    after = start(config(metrics=metrics), tmp_path)[0].samples()
    assert list(after["judge"]) == list(before["judge"])
    assert "lenient" in after
    changed = start(config(metrics=["strict", {**metrics[1], "max_new_tokens": 9}]), tmp_path)[0].samples()
    assert "judge" not in changed or changed["judge"].isna().all()  # another judge's verdicts are not taken over


def test_a_constant_judge_is_exposed_by_its_controls(config: Any, tmp_path: Path) -> None:
    run_, notes = start(config("yes"), tmp_path)
    assert any("It does not tell accepted from empty answers: its scores measure nothing." in note for note in notes)
    table = run_.analyze("judges").set_index("control")
    assert list(table["share"]) == [1, 1, 1, 1]
    assert list(table["expected"]) == [1, 0, 0, 1]
    plain = start(config(metrics=["strict"], name="u"), tmp_path)[0]
    with pytest.raises(StoreError, match="has no judge"):
        plain.analyze("judges")


def test_unreadable_replies_have_no_score_and_are_counted(config: Any, tmp_path: Path) -> None:
    run_, notes = start(config("perhaps"), tmp_path)
    assert any("replies state no verdict, so their answers have no score, such as 'perhaps'." in note for note in notes)
    assert run_.samples()["failed"].isna().all()
    counts = json.loads((run_.path / "judges.json").read_text())["judge"]
    assert counts["gold"] == {"right": 0, "n": 0, "unread": 6}
    assert describe_controls("judge", counts) == "judge: the judge gave no verdict on its controls."


MATCHER = '''
from dataclasses import dataclass
from icl.models.fake import FakeModel


@dataclass(frozen=True, kw_only=True)
class Matcher(FakeModel):
    """As a judge names the element whose number or words are the sentence; otherwise it answers with the second."""

    def answer_to(self, request):
        text = request.prompt.text
        if "Sentence:" not in text:
            return "The two differ. <ans>the logo</ans>"
        sentence = text.split("Sentence:")[1].split("Elements:")[0].strip()
        lines = [line.split(". ") for line in text.split("Elements:")[1].splitlines() if ". " in line]
        named = [number for number, words in lines if sentence in (number, words)]
        return f"<id>{','.join(named)}</id>"
'''


def test_open_answers_of_mmir_are_matched_with_elements_by_a_judge(config: Any, tmp_path: Path) -> None:
    (tmp_path / "matcher.py").write_text(MATCHER)
    node = {"name": f"{tmp_path / 'matcher.py'}:Matcher"}
    columns = {"question": "question", "image": "image", "answer": "gt_ans", "meta": ["source", "descs"]}
    path = write_documented_rows("mmir", tmp_path)
    task = {"name": "hub", "preset": "mmir", "path": str(path), "pool_fraction": 0, "columns": columns}
    metrics = ["mmir", {"name": "mmir_open", "judge": node}]
    keys = {"task": task, "model": node, "grid": {"shots": [0]}, "seeds": [0], "metrics": metrics, "max_new_tokens": 16}
    run_, notes = start(config(**keys), tmp_path)
    frame = run_.samples()
    half = [len(gold) == 2 for gold in frame["gold"]]
    assert list(frame["mmir_open"]) == [0.5 if two else 0.0 for two in half]  # 2 is right where gold is 1 and 2
    assert set(half) == {True, False}
    assert not frame["mmir"].any(), "the sentence has no number"
    calls_right = f"calls {len(frame)} of {len(frame)} accepted answers and 0 of {len(frame)} empty answers right."
    assert any(calls_right in note for note in notes)


def test_controls_warn_only_if_both_were_read() -> None:
    unread, every, half = ({"right": right, "n": n, "unread": 0} for right, n in ((0, 0), (10, 10), (5, 10)))
    others = {"other": unread, "swapped": unread}
    assert "measure nothing" not in describe_controls("judge", {"gold": every, "empty": unread, **others})
    assert "measure nothing" not in describe_controls("judge", {"gold": every, "empty": half, **others})
    assert "measure nothing" in describe_controls("judge", {"gold": half, "empty": half, **others})


def test_comparisons_that_end_early_do_not_wait_for_a_judge(config: Any, tmp_path: Path) -> None:
    keys = config(compare={"to": {"shots": 0}, "metric": "judge"}, stop="when_decided")
    with pytest.raises(ConfigError, match="comparisons by 'judge' cannot end early"):
        start(keys, tmp_path)


def test_a_model_with_logits_judges_too(config: Any, toy: str, tmp_path: Path) -> None:
    metrics = ["strict", {"name": "judge", "judge": {"name": toy}, "max_new_tokens": 2}]
    _, notes = start(config(metrics=metrics), tmp_path)
    assert any("distinct answers are judged" in note for note in notes)
    assert not any("have no verdict" in note for note in notes)
