"""An exception is a user's own only if the user's code raised it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CALL = """
import leaving
from icl.user_errors import convert_user_errors
with convert_user_errors():
    leaving.leave()
"""


def call(folder: Path) -> subprocess.CompletedProcess[str]:
    """Calls a function of a module in the folder that leaves with status 7."""
    folder.mkdir(parents=True)
    (folder / "leaving.py").write_text("def leave():\n    raise SystemExit(7)\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    command = [sys.executable, "-c", CALL]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_a_package_of_another_environment_is_not_the_users_code(tmp_path: Path, folder: str) -> None:
    """As after `pip install --user`, or with --system-site-packages: the command line itself exits from there."""
    assert call(tmp_path / ".local" / "lib" / "python3.12" / folder).returncode == 7


def test_a_file_elsewhere_is(tmp_path: Path) -> None:
    done = call(tmp_path / "study")
    assert "leaving.py, line 2) failed: SystemExit: 7." in done.stderr
    assert done.returncode == 1
