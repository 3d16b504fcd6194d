"""A folder in the cache is complete or missing, whatever happens to the processes that write it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from icl.errors import ICLWarning
from icl.models.cached_checkpoint import cached_checkpoint

WRITER = """
import os, sys, time
from pathlib import Path
from icl.models.cached_checkpoint import cached_checkpoint

def write(folder):
    print("writing", flush=True)
    (folder / "first").write_text("1")
    time.sleep(float(sys.argv[2]))
    (folder / "second").write_text("2")

cached_checkpoint(Path(sys.argv[1]), "model", write)
"""


def start(folder: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True, env=os.environ
    )


def write(folder: Path) -> None:
    (folder / "first").write_text("1")
    (folder / "second").write_text("2")


def refuse(folder: Path) -> None:
    raise AssertionError("it is complete")


def folders(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir() if path.is_dir())


def test_of_two_processes_one_writes_and_the_other_waits(tmp_path: Path) -> None:
    both = [start(tmp_path / "model", 0.5) for _ in range(2)]
    printed = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(printed) == ["", "writing\n"]
    assert cached_checkpoint(tmp_path / "model", "model", refuse) == tmp_path / "model"


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    process = start(tmp_path / "model", 60)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(folders(tmp_path)) == 1
    assert not (tmp_path / "model").exists()
    cached_checkpoint(tmp_path / "model", "model", write)
    assert folders(tmp_path) == ["model"]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        cached_checkpoint(tmp_path / "model", "model", fail)
    assert folders(tmp_path) == []


def test_a_complete_folder_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_checkpoint(tmp_path / "model", "model", write)
    monkeypatch.setattr("filelock.FileLock.acquire", refuse)  # as in a cache that one may only read
    assert cached_checkpoint(tmp_path / "model", "model", refuse) == tmp_path / "model"


@pytest.mark.parametrize("name", ["first", "files.json"])
def test_a_damaged_folder_is_written_again_with_a_warning(name: str, tmp_path: Path) -> None:
    folder = cached_checkpoint(tmp_path / "model", "small model", write)
    (folder / name).write_text("{}")
    with pytest.warns(ICLWarning, match=r"the small model .* is damaged \(first.*\)\. It is written again"):
        cached_checkpoint(folder, "small model", write)
    assert (folder / "first").read_text() == "1"


def test_other_users_may_read_what_the_cache_lets_them_read(tmp_path: Path) -> None:
    def write_private(folder: Path) -> None:
        write(folder)
        (folder / "first").chmod(0o600)

    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o755)
    folder = cached_checkpoint(cache / "small", "model", write_private)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())}
    assert modes["small"] == 0o755
    assert modes["first"] == modes["second"]


def test_a_list_of_files_that_is_no_mapping_and_a_folder_inside_count_as_damage(tmp_path: Path) -> None:
    folder = cached_checkpoint(tmp_path / "small", "model", write)
    (folder / "files.json").write_text("[1]")
    with pytest.warns(ICLWarning, match="is damaged"):
        cached_checkpoint(folder, "model", write)
    (folder / "sub").mkdir()
    with pytest.warns(ICLWarning, match=r"is damaged \(sub\)"):
        cached_checkpoint(folder, "model", write)
    assert sorted(path.name for path in folder.iterdir()) == ["files.json", "first", "second"]


def test_a_damaged_folder_stays_if_it_cannot_be_written_again(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        raise ValueError("a package is missing")

    folder = cached_checkpoint(tmp_path / "small", "model", write)
    (folder / "stray").write_text("")
    with pytest.warns(ICLWarning, match="is damaged"), pytest.raises(ValueError, match="a package is missing"):
        cached_checkpoint(folder, "model", fails)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["small"]
    assert (folder / "first").read_text() == "1"
