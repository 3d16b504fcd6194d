"""What the four trackers receive, on fakes of accelerate's classes."""

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import accelerate.tracking
import pytest

from experiments.cli.main import main
from experiments.observers.base import COLUMNS, ROWS, check_observer
from experiments.observers.trackers import MAX_TEXT, clean_key, flatten
from icl.errors import ConfigError
from icl.registry import build, entries

NAMES = ("mlflow", "tensorboard", "trackio", "wandb")


class Recorder:
    """A recorder of calls: any method of any name."""

    def __init__(self, calls: list[Any], prefix: str = "") -> None:
        self.calls, self.prefix = calls, prefix

    def __getattr__(self, name: str) -> Any:
        if name == "tracker":
            return Recorder(self.calls, "tracker.")
        return lambda *args, **kwargs: self.calls.append((self.prefix + name, *args, *kwargs.values()))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The calls of all trackers. Their packages are replaced by fakes."""
    calls: list[Any] = []

    def tracker_class(**arguments: Any) -> Recorder:
        calls.append(("init", arguments))
        return Recorder(calls)

    artifact = SimpleNamespace(add_file=lambda path: calls.append(("add_file", path)))
    fakes = {
        "mlflow": {"set_tracking_uri": lambda uri: calls.append(("uri", uri)), "log_table": Recorder(calls).log_table},
        "trackio": {"Table": lambda dataframe: dataframe.to_dict("split")["data"]},
        "wandb": {"Settings": dict, "Artifact": lambda name, type: artifact},
    }
    for name, members in fakes.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    for name in NAMES:
        monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, name, tracker_class)
    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", lambda: list(NAMES))
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    return calls


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_receives_settings_a_score_a_cell_and_a_table(calls: list[Any], name: str) -> None:
    check_observer(build("observer", name))
    assert ("store_init_configuration", {
        "task.name": "binding", "task.queries": 5, "grid.decoding": '["greedy", {"name": "vcd", "alpha": 0.5}]'
    }) in calls  # fmt: skip
    logged = [call[1:] for call in calls if call[0] == "log" and "samples" in call[1]]
    per_run = [({"lenient/decoding greedy": 0.5, "samples": 4}, 1), ({"lenient/decoding vcd": 0.25, "samples": 4}, 2)]
    assert logged == per_run * 2, "a second run begins at step 1"
    table = {
        "mlflow": (
            "log_table",
            {"decoding": ["greedy", "vcd"], "mean": [0.5, 0.25], "low": [0.1, None]},
            "scores.json",
        ),
        "wandb": ("log_table", "scores", list(COLUMNS), list(map(list, ROWS))),
        "trackio": ("log", {"scores": [["greedy", 0.5, 0.1], ["vcd", 0.25, pytest.approx(float("nan"), nan_ok=True)]]}),
        "tensorboard": (
            "tracker.add_text",
            "scores",
            "| decoding | mean | low |\n| --- | --- | --- |\n| greedy | 0.5 | 0.1 |\n| vcd | 0.25 |  |",
        ),
    }
    assert table[name] in calls
    keeps = [call for call in calls if call[0] in ("log_artifact", "add_file")]
    assert [Path(call[1]).name for call in keeps] == ["report.html"] * (2 if name in ("mlflow", "wandb") else 0)
    assert [call[0] for call in calls].count("finish") == 2


def test_files_are_beside_or_in_the_run_and_nothing_is_uploaded_by_default(
    calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "t"
    for name in NAMES:
        build("observer", name).started(run, {})
    arguments = [call[1] for call in calls if call[0] == "init"]
    assert ("uri", f"sqlite:///{tmp_path}/runs/mlflow.db") in calls
    assert arguments[1] == {"run_name": "tensorboard", "logging_dir": str(run / "trackers")}
    assert arguments[2] == {"run_name": "mm-icl", "name": "t"}
    assert (arguments[3]["mode"], arguments[3]["dir"]) == ("offline", str(run / "trackers"))
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
    build("observer", "wandb").started(run, {})
    build("observer", {"name": "wandb", "mode": "offline"}).started(run, {})
    build("observer", "mlflow").started(run, {})
    assert [call[1]["mode"] for call in calls if call[0] == "init" and "mode" in call[1]][1:] == ["online", "offline"]
    assert ("uri", "sqlite:///mine.db") in calls


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_whose_package_is_missing_is_named_before_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", lambda: ["comet_ml"])
    with pytest.raises(ConfigError, match=rf"{name} is not installed \(pip install {name}\).*here: comet_ml\."):
        build("observer", name).check()
    monkeypatch.chdir(tmp_path)
    assert main(["run", "quickstart", f"observe={name}"]) == 2
    assert f"observe[0]: {name} is not installed" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert f"{name} is not installed" in check_observer(build("observer", name)).describe()


def test_a_tracker_does_not_wait_for_the_other_processes_of_a_launcher(
    calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerate.PartialState, "_shared_state", {})
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    build("observer", "tensorboard").started(tmp_path, {})
    assert accelerate.PartialState().num_processes == 1
    assert (os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"]) == ("0", "2")


def test_each_tracker_is_a_registered_observer() -> None:
    assert tuple(entries("observer")) == NAMES


def test_settings_become_texts_and_keys_that_every_tracker_takes() -> None:
    settings = {"a": {"b ü": [1, None], "c": True}, "long": "x" * 10_000, "none": None}
    assert flatten(settings) == {"a.b _": "[1, null]", "a.c": True, "long": "x" * MAX_TEXT, "none": "null"}
    assert clean_key("lenient/decoding mask_only(vcd, β=0.5)") == "lenient/decoding mask_only vcd_ __0.5"
