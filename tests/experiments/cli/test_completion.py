"""Completion in a shell, and the end of a pipe."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NAMED_SHELL = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
"""The shell is the next word. Without this variable it is that of the parent process."""


def _completions(folder: Path, *words: str) -> list[str]:
    """What bash would offer after these words."""
    environment = {
        **os.environ,
        "_ICL_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    command = [sys.executable, "-m", "icl"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("icl", "pl"), ["plan"]),
        (("icl", "run", "quick"), ["quickstart"]),
        (("icl", "plan", "papers/v"), ["papers/vcd", "papers/vl_icl"]),
        (("icl", "run", "mi"), ["mine.yaml", "mixed/"]),
        (("icl", "run", "mine.yaml", "--l"), ["--limit"]),
        (("icl", "show", "--fo"), ["--follow"]),
        (("icl", "data", "d"), ["drawings"]),
        (("icl", "doctor", "b"), ["backends"]),
    ],
)
def test_the_shell_completes_commands_experiments_and_options(
    tmp_path: Path, words: tuple[str, ...], expected: list[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("")
    (tmp_path / "mine.txt").write_text("")
    (tmp_path / "mixed").mkdir()
    assert _completions(tmp_path, *words) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_is_printed_for_a_shell(shell: str) -> None:
    command = [sys.executable, "-m", "icl", "--show-completion", shell]
    done = subprocess.run(command, env={**os.environ, **NAMED_SHELL}, capture_output=True, text=True, check=True)
    assert f"complete_{shell}" in done.stdout
    assert "_ICL_COMPLETE" in done.stdout


def test_the_completion_is_installed_for_a_shell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "icl", "--install-completion", "bash"]
    subprocess.run(command, env={**os.environ, **NAMED_SHELL, "HOME": str(tmp_path)}, check=True, capture_output=True)
    script = tmp_path / ".bash_completions" / "icl.sh"
    assert f"source '{script}'" in (tmp_path / ".bashrc").read_text()
    if bash := shutil.which("bash"):
        assert subprocess.run([bash, "-n", str(script)], check=True).returncode == 0


@pytest.mark.parametrize("words", [("ls",), ("ls", "schema"), ("--help",), ("ls", "strategy", "vcd")])
def test_a_reader_that_ends_early_ends_the_command_without_a_word(words: tuple[str, ...]) -> None:
    """As `icl ls | head -1`: the status is that of a Unix tool whose pipe is broken."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "icl", *words]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
