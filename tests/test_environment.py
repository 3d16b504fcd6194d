"""The script that sets up an environment reports its steps and errors. pip is a fake here."""

import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "environment.sh"
PYTHON = """#!/bin/sh
case "$*" in
    "-V") echo "Python 3.{minor}.0" ;;
    *version_info*) [ {minor} -ge 11 ] ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip "*)
        echo "Collecting torch<3,>=2.6"
        echo "  Downloading torch-2.13.0-cp312-manylinux.whl (880.1 MB)"
        sleep {sleep}
        echo "{words}"
        exit {status} ;;
    "-c "*) echo "torch 2.13.0, transformers 5.24.0" ;;
esac
"""


@pytest.fixture
def python(tmp_path: Path):
    def make(minor: int = 12, sleep: float = 1, status: int = 0, words: str = "") -> Path:
        path = tmp_path / "python"
        path.write_text(PYTHON.format(minor=minor, sleep=sleep, status=status, words=words))
        path.chmod(0o755)
        return path

    return make


def setup(folder: Path, python: Path) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(SCRIPT), "env", str(python), "offline"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def test_the_script_reports_its_steps_durations_and_results(tmp_path: Path, python) -> None:
    done = setup(tmp_path, python())
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "environment  making env with Python 3.12.0"
    assert lines[1].startswith("environment  installing mm-icl, mostly PyTorch: 2 to 10 minutes the first time")
    assert lines[-1].startswith("environment  env ready in 0:0")
    assert lines[-1].endswith(" (torch 2.13.0, transformers 5.24.0)")
    assert all(len(line) <= 80 for line in lines)
    assert "Downloading torch" in (tmp_path / "env" / "install.log").read_text()


def test_an_existing_environment_is_not_created_again(tmp_path: Path, python) -> None:
    setup(tmp_path, python())
    assert "making" not in setup(tmp_path, python()).stdout


def test_the_last_lines_of_pip_are_printed_if_it_fails(tmp_path: Path, python) -> None:
    done = setup(tmp_path, python(status=1, words="ERROR: No matching distribution found for torch"))
    assert done.returncode == 1
    assert "ERROR: No matching distribution found for torch" in done.stderr
    assert "all of them are in env/install.log" in done.stderr
    assert "ready" not in done.stdout


def test_an_old_python_is_refused_before_anything_is_created(tmp_path: Path, python) -> None:
    done = setup(tmp_path, python(minor=9))
    assert done.returncode == 1
    assert done.stderr.startswith("Python 3.11 or newer is needed, and ")
    assert "is Python 3.9.0" in done.stderr
    assert not (tmp_path / "env").exists()


def test_ctrl_c_stops_pip_too(tmp_path: Path, python) -> None:
    command = ["sh", str(SCRIPT), "env", str(python(sleep=60)), "offline"]
    # A job in the background is started with the signal ignored, and so would be all that the tests start.
    restore_sigint = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
        preexec_fn=restore_sigint,  # noqa: PLW1509
    )
    while not (tmp_path / "env" / "install.log").is_file():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=50)
    assert process.returncode == 130
    assert "stopped; the same command goes on" in out


def test_a_terminal_shows_the_current_package(tmp_path: Path, python) -> None:
    import pty

    master, slave = pty.openpty()
    command = ["sh", str(SCRIPT), "env", str(python(sleep=3)), "offline"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=slave)
    assert process.wait(timeout=60) == 0
    output = os.read(master, 100_000).decode()
    assert "\r\x1b[Kenvironment  0:0" in output
    assert "Downloading torch (880.1 MB)" in output
