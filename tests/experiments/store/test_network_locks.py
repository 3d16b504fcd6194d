"""Locks of network file systems: mount options that keep them on one machine, and errors of those without locks."""

import errno
import json
import os
import platform
from pathlib import Path

import filelock
import pytest

from experiments.store import network_locks
from experiments.store.lock import write_lock
from experiments.store.network_locks import local_locks
from icl.errors import StoreError


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("nfs", "rw,vers=3,nolock,proto=tcp", "nfs mounted with nolock"),
        ("nfs4", "rw,vers=4.2,local_lock=all", "nfs4 mounted with local_lock=all"),
        ("nfs4", "rw,vers=4.2,local_lock=none", ""),
        ("lustre", "rw,localflock", "lustre mounted with localflock"),
        ("lustre", "rw,flock", ""),
        ("ext4", "rw,nolock", ""),
    ],
)
def test_the_mount_of_a_folder_decides(
    kind: str, options: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = tmp_path / "my share"
    (share / "runs").mkdir(parents=True)
    place = str(share.resolve()).replace(" ", "\\040")
    (tmp_path / "mounts").write_text(f"disk / ext4 rw 0 0\nserver:/x {place} {kind} {options} 0 0\n")
    monkeypatch.setattr(network_locks, "MOUNTS", tmp_path / "mounts")
    assert local_locks(share / "runs") == expected
    assert local_locks(tmp_path) == ""
    monkeypatch.setattr(network_locks, "MOUNTS", tmp_path / "none")
    assert local_locks(share / "runs") == ""


def test_a_run_of_another_machine_is_refused_where_locks_do_not_hold_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = tmp_path / ".holder.json"
    elsewhere = json.dumps({"process": 7, "machine": "elsewhere", "since": "today"})
    holder.write_text(elsewhere)
    with write_lock(tmp_path):
        assert json.loads(holder.read_text())["machine"] == platform.node()
    monkeypatch.setattr("experiments.store.lock.local_locks", lambda folder: "nfs mounted with nolock")
    holder.write_text(elsewhere)
    message = r"is being run by process 7 on elsewhere since today, or was .* \(nfs mounted with nolock\)"
    for _ in range(2):  # the record of the other machine stays
        with pytest.raises(StoreError, match=message), write_lock(tmp_path):
            pass
    holder.write_text(json.dumps({"process": os.getpid(), "machine": platform.node(), "since": "today"}))
    with write_lock(tmp_path):
        pass


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
