import hashlib
import os
import platform
import re
import subprocess
from datetime import datetime, timedelta
from importlib.metadata import distributions
from pathlib import Path

import pytest

from experiments.store import environment
from experiments.store.environment import collect_environment, now

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
    installed = tmp_path / "site-packages" / "experiments" / "store" / "environment.py"
    installed.parent.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(environment, "__file__", str(installed))
    assert collect_environment()["git"]["toolkit"] is None
    checkout = tmp_path / "checkout"
    own = checkout / "experiments" / "store" / "environment.py"
    for file in (own, checkout / "icl" / "__init__.py"):
        file.parent.mkdir(parents=True)
        file.touch()
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "Begin"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(environment, "__file__", str(own))
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
    monkeypatch.setattr(environment, "TIMEOUT", 0.05)
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
