import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.store.lock import write_lock
from icl.errors import StoreError

HOLD = """
import pathlib, sys
from experiments.store.lock import write_lock
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
    holder.kill()
    holder.wait()
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
