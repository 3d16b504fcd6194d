import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from experiments.config.config import load_config
from experiments.running.run import run
from experiments.store.invocations import Invocation, invocations_file, read_invocations
from experiments.store.store import SampleWriter, Store
from icl.errors import StoreError
from icl.types import Sample

Mapping = Callable[..., dict[str, Any]]


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
