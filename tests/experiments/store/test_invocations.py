import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from experiments.config.config import load_config
from experiments.running.run import run
from experiments.store import invocations
from experiments.store.invocations import Invocation, collect_environment, invocations_file, now, read_invocations
from experiments.store.store import SampleWriter, Store
from icl.errors import StoreError
from icl.types import Sample

Mapping = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def environment_once() -> None:
    """Each line has the environment of its time."""


@pytest.fixture
def fast_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.store.invocations.collect_environment", dict)


def test_each_process_that_computes_has_a_line_and_its_samples_have_its_number(
    mapping: Mapping, tmp_path: Path
) -> None:
    run(load_config(mapping()), tmp_path)
    run(load_config(mapping()), tmp_path)  # nothing to do, no line
    run(load_config(mapping(grid={"shots": [2, 1]})), tmp_path)
    store = Store(tmp_path / "t")
    assert [*read_invocations(store)] == [1, 2]
    cells = (store.read_run() or {})["cells"]
    assert [{line["invocation"] for line in store.lines(digest)} for digest in cells] == [{1}, {2}]
    assert [session["invocation"] for session in (store.read_run() or {})["sessions"]] == [1, 2]


def test_a_line_has_every_package_and_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "study.py").write_text("x = 1\n")
    subprocess.run([*git, "add", "study.py"], check=True)
    subprocess.run([*git, "commit", "-qm", "Begin"], check=True)
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "run")
    (tmp_path / "run").mkdir()
    assert Invocation(store).id == 1
    (tmp_path / "study.py").write_text("x = 2\n")
    assert Invocation(store, "w-1").id == 2
    clean, dirty = read_invocations(store).values()
    assert {"python", "torch", "numpy", "pandas", "pydantic", "typer"} <= set(clean["versions"])
    assert clean["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    own, changed = (line["git"]["working_directory"] for line in (clean, dirty))
    assert own["commit"] == changed["commit"] == subprocess.getoutput(f"git -C {tmp_path} rev-parse HEAD")
    assert (own["dirty"], len(changed["dirty"])) == ("", 12)
    assert (clean["worker"], dirty["worker"]) == ("0", "w-1")
    assert clean["machine"]["cpus"] >= 1


@pytest.mark.usefixtures("fast_environment")
def test_workers_that_start_at_once_have_different_numbers(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda i: Invocation(store, f"w-{i}").id, range(24)))
    assert sorted(numbers) == [*read_invocations(store)] == list(range(1, 25))


@pytest.mark.usefixtures("fast_environment")
@pytest.mark.parametrize("end", ['{"id": 2, "start": "2026-', '{"id": 2'])
def test_a_line_that_was_cut_by_a_kill_is_skipped_and_replaced(tmp_path: Path, end: str) -> None:
    store = Store(tmp_path)
    assert Invocation(store).id == 1
    with invocations_file(store).open("a") as file:
        file.write(end)
    assert [*read_invocations(store)] == [1]
    assert Invocation(store).id == 2
    assert [*read_invocations(store)] == [1, 2]


@pytest.mark.usefixtures("fast_environment")
def test_a_number_is_not_used_again_after_the_file_was_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_cell("c", {})
    with SampleWriter(store, invocation=7) as writer:
        writer.append("c", [Sample(cell="c", query="q", seed=0)])
    assert Invocation(store).id == 8


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", r"line 1 of .*invocations\.jsonl is damaged \(.*\)\. Restore the file from a copy, or remove it"),
        ("7", r"line 1 of .*invocations\.jsonl is damaged"),
        ('{"id": 0}', r"line 1 of .*invocations\.jsonl is damaged, .*: id cannot be 0\. Restore"),
        ('{"id": 1, "versions": {"torch": 2}}', r"line 1 of .*: versions\.torch cannot be 2\. Restore"),
        ('{"id": 1, "git": {"toolkit": {"dirty": ""}}}', r"line 1 of .*: git\.toolkit\.commit cannot be"),
    ],
)
def test_a_damaged_line_is_a_sentence(tmp_path: Path, line: str, says: str) -> None:
    invocations_file(Store(tmp_path)).write_text(f"{line}\n{json.dumps({'id': 2})}\n")
    with pytest.raises(StoreError, match=says):
        read_invocations(Store(tmp_path))


@pytest.mark.usefixtures("fast_environment")
def test_a_line_is_on_the_disk_before_its_number_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []

    def fsync(number: int) -> None:
        synced.append(Path(f"/dev/fd/{number}").read_bytes())

    monkeypatch.setattr("os.fsync", fsync)
    assert Invocation(Store(tmp_path), "é").id == 1
    assert [json.loads(data)["worker"] for data in synced] == ["é"]
    assert "é".encode() in synced[0]


@pytest.mark.usefixtures("fast_environment")
def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    invocations_file(Store(tmp_path)).mkdir()
    with pytest.raises(StoreError, match=r"invocations\.jsonl cannot be (read|written): "):
        _ = Invocation(Store(tmp_path)).id
    with pytest.raises(StoreError, match=r"invocations\.jsonl cannot be read: "):
        read_invocations(Store(tmp_path))


@pytest.mark.usefixtures("fast_environment")
def test_a_lock_that_others_hold_for_long_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.store.invocations.LOCK_TIMEOUT", 0.05)
    with FileLock(tmp_path / ".invocations.lock"), pytest.raises(StoreError, match="locked by another worker for 0 s"):
        _ = Invocation(Store(tmp_path)).id


ROOT = Path(__file__).parents[3]


def test_the_time_has_its_offset() -> None:
    time = datetime.fromisoformat(now())
    assert time.utcoffset() is not None
    assert abs(datetime.now().astimezone() - time) < timedelta(minutes=1)


def test_versions_are_those_of_all_packages_by_name() -> None:
    versions = collect_environment()["versions"]
    assert versions["python"] == platform.python_version()
    import numpy as np

    assert versions["numpy"] == np.__version__
    names = [name for name in versions if name != "python"]
    assert names == sorted(names)
    assert names == [name.lower() for name in names]
    packages = sorted((package.name.lower(), package.version) for package in distributions() if package.name)
    assert {name: version for name, version in versions.items() if name != "python"} == dict(packages)


def test_the_toolkit_has_a_commit_only_in_its_own_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert collect_environment()["git"]["toolkit"]["commit"] == head.strip()
    monkeypatch.chdir(tmp_path)
    assert collect_environment()["git"]["working_directory"] is None
    installed = tmp_path / "site-packages" / "experiments" / "store" / "invocations.py"
    installed.parent.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(invocations, "__file__", str(installed))
    assert collect_environment()["git"]["toolkit"] is None
    checkout = tmp_path / "checkout"
    own = checkout / "experiments" / "store" / "invocations.py"
    for file in (own, checkout / "icl" / "version.py"):
        file.parent.mkdir(parents=True)
        file.touch()
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "Begin"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(invocations, "__file__", str(own))
    head = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    assert collect_environment()["git"]["toolkit"] == {"commit": head, "dirty": ""}


def test_programs_that_are_missing_fail_or_hang_give_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    content = collect_environment()
    assert (content["devices"], content["driver"]) == ([], None)
    assert content["git"] == {"working_directory": None, "toolkit": None}
    assert "visible_devices" not in content
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n/bin/sleep 5; echo 'A, 1'\n")
    tool.chmod(0o755)
    monkeypatch.setattr(invocations, "TIMEOUT", 0.05)
    assert collect_environment()["devices"] == []
    tool.write_text("not a program")
    assert collect_environment()["devices"] == []


def test_a_commit_without_changes_is_clean_and_changes_have_a_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "a").write_text("1\n")
    subprocess.run([*git, "add", "a"], check=True)
    subprocess.run([*git, "commit", "-qm", "Begin"], check=True)
    monkeypatch.chdir(tmp_path)
    states = []
    for text in ("1\n", "2\n", "3\n", "2\n"):
        (tmp_path / "a").write_text(text)
        states.append(collect_environment()["git"]["working_directory"]["dirty"])
    digest = hashlib.sha256(subprocess.check_output([*git, "diff", "HEAD", "--binary"]).strip()).hexdigest()
    assert states[0] == ""
    assert states[3] == digest[:12]
    assert states[1] == states[3] != states[2]
    assert all(re.fullmatch("[0-9a-f]{12}", state) for state in states[1:])


def test_a_commit_whose_changes_cannot_be_read_does_not_count_as_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "git"
    tool.write_text('#!/bin/sh\ncase "$3" in rev-parse) echo 0123abc;; *) exit 1;; esac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert collect_environment()["git"]["working_directory"] is None
    tool.write_text('#!/bin/sh\ncase "$3" in rev-parse) echo 0123abc;; esac\n')
    assert collect_environment()["git"]["working_directory"] == {"commit": "0123abc", "dirty": ""}


def test_the_machine_is_named() -> None:
    machine = collect_environment()["machine"]
    assert machine == {"name": platform.node(), "system": platform.platform(), "cpus": os.cpu_count()}


def test_devices_and_driver_are_those_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA A100, 550.54\nNVIDIA A100, 550.54'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    content = collect_environment()
    assert (content["devices"], content["driver"]) == (["NVIDIA A100", "NVIDIA A100"], "550.54")
    assert content["visible_devices"] == "1"
    tool.write_text("#!/bin/sh\necho 'Old GPU'\n")
    assert (collect_environment()["devices"], collect_environment()["driver"]) == (["Old GPU"], None)
    tool.write_text("#!/bin/sh\necho 'failed half-way, 1'; exit 9\n")
    assert collect_environment()["devices"] == []
