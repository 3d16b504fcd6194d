import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest
from filelock import FileLock

from experiments.store import lock
from experiments.store.lock import is_locked, last_state, write_lock
from icl.errors import StoreError

HOLD = """
import pathlib, sys
from experiments.store import lock
from experiments.store.lock import is_locked, write_lock
with write_lock(pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_learns_who_holds_the_run_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "in\n"
    message = rf"is being run by process {holder.pid} on .* since .* Wait for it, or use another name\."
    with pytest.raises(StoreError, match=message), write_lock(tmp_path):
        pass
    running = {"sessions": [{"state": "finished"}, {"state": "running"}]}
    assert last_state(tmp_path, running) == "running"
    holder.kill()
    holder.wait()
    assert last_state(tmp_path, running) == "killed"
    assert last_state(tmp_path, {"sessions": [{"state": "running", "launch": "1"}]}) == "running"  # workers may live
    assert last_state(tmp_path, {"sessions": [{"state": "stopped"}]}) == "stopped"
    with write_lock(tmp_path):
        assert json.loads((tmp_path / ".holder.json").read_text())["process"] == os.getpid()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made: "), write_lock(tmp_path / "file" / "run"):
        pass


def test_a_holder_that_cannot_be_written_holds_all_the_same(tmp_path: Path) -> None:
    (tmp_path / ".holder.json").mkdir()  # in the way
    with write_lock(tmp_path), pytest.raises(StoreError, match="is being run by another process"), write_lock(tmp_path):
        pass


def test_a_second_process_is_refused_at_once_and_the_lock_ends_with_its_block(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "deep"  # folders are made
    with write_lock(folder):
        start = time.monotonic()
        with pytest.raises(StoreError, match="is being run by process"), write_lock(folder):
            pass
        assert time.monotonic() - start < 0.5
    assert not (folder / ".holder.json").exists()
    with write_lock(folder):
        (folder / ".holder.json").unlink()  # by hand
    holder = subprocess.run(
        [sys.executable, "-c", HOLD, str(folder)], input="", capture_output=True, text=True, check=True
    )
    assert holder.stdout == "in\n", "the lock was released"


def test_a_lock_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(StoreError, match="cannot be written: "), write_lock(tmp_path):
        pass


def test_a_run_is_locked_while_a_process_writes_it_or_if_that_cannot_be_seen(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with write_lock(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    (tmp_path / "other" / ".lock").mkdir(parents=True)  # in the way
    assert is_locked(tmp_path / "other")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_run_that_may_only_be_read_is_locked_as_long_as_it_has_a_holder(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **settings: object) -> None:
        raise OSError(code, "read-only")

    with write_lock(tmp_path):
        monkeypatch.setattr(FileLock, "acquire", refuse)
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_the_lock_waits_a_moment_for_a_look_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`is_locked` has the lock for a moment; a run that starts then is not refused."""
    monkeypatch.setattr(lock, "PROBE_SECONDS", 5.0)
    look = FileLock(tmp_path / ".lock", thread_local=False)
    look.acquire()
    release = threading.Timer(0.6, look.release)
    release.start()
    start = time.monotonic()
    with write_lock(tmp_path):
        assert 0.5 < time.monotonic() - start < 4
    release.join()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_sentence(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    message = r"has no locks \(.*\), so two processes could write one run\. Mount it with"
    with pytest.raises(StoreError, match=message), write_lock(tmp_path):
        pass
