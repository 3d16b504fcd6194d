"""The wheel works outside the checkout: shipped experiments by name, new files, checks, a report."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FEW = ("grid.task.queries=[2]", "seeds=[0]", "grid.shots=[0,2]")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of the wheel, as pip would write it to site-packages."""
    build = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed (extra dev)")
    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = build.WheelBuilder(str(ROOT)).build(directory=str(folder / "dist"), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "200"}
    command = [sys.executable, "-P", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def icl(site: Path, folder: Path, *words: str) -> str:
    done = run(site, folder, "-m", "experiments.cli.main", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_quickstart_runs_by_name_and_prints_the_path_of_its_report(unpacked: Path, tmp_path: Path) -> None:
    where = run(unpacked, tmp_path, "-c", "import icl, experiments; print(icl.__file__, experiments.__file__)").stdout
    assert all(Path(file).is_relative_to(unpacked) for file in where.split())
    printed = icl(unpacked, tmp_path, "run", "quickstart", *FEW)
    assert printed.rstrip().endswith("report  runs/quickstart/report.html")
    assert (tmp_path / "runs" / "quickstart" / "report.html").is_file()


def test_a_new_strategy_passes_its_check(unpacked: Path, tmp_path: Path) -> None:
    icl(unpacked, tmp_path, "new", "strategy", "blind")
    assert "fulfills the contract" in icl(unpacked, tmp_path, "check", "strategy", "blind.py:Blind")


def test_the_wheel_has_no_tests_and_no_workshop(unpacked: Path) -> None:
    names = {path.name for path in unpacked.iterdir()}
    assert names == {"icl", "prompts", "retrievers", "decoding", "experiments", next(unpacked.glob("*.dist-info")).name}
