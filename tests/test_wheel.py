"""The wheel works outside the checkout: shipped experiments by name, new files, checks, a report."""

import os
import zipfile
from pathlib import Path

import pytest
from forked import call_forked

ROOT = Path(__file__).parent.parent
FEW = ("grid.task.queries=[2]", "seeds=[0]", "grid.shots=[0,2]", "grid.retriever=[random]")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of the wheel, as pip would write it to site-packages."""
    build = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed (extra dev)")
    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = build.WheelBuilder(str(ROOT)).build(directory=str(folder / "dist"), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site: Path, folder: Path, *words: str) -> str:
    """The output of a command whose module path begins with the wheel's content."""
    done = call_forked(words, folder, {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "200"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_quickstart_runs_by_name_and_prints_the_path_of_its_report(unpacked: Path, tmp_path: Path) -> None:
    (tmp_path / "where.py").write_text("import icl, experiments; print(icl.__file__, experiments.__file__)")
    where = run(unpacked, tmp_path, "python", "where.py")
    assert all(Path(file).is_relative_to(unpacked) for file in where.split())
    printed = run(unpacked, tmp_path, "icl", "run", "quickstart", *FEW)
    assert printed.rstrip().endswith("report  runs/quickstart/report.html")
    assert (tmp_path / "runs" / "quickstart" / "report.html").is_file()


def test_a_new_strategy_passes_its_check(unpacked: Path, tmp_path: Path) -> None:
    run(unpacked, tmp_path, "icl", "new", "strategy", "blind")
    assert "fulfills the contract" in run(unpacked, tmp_path, "icl", "check", "strategy", "blind.py:Blind")


def test_the_wheel_has_no_tests_and_no_workshop(unpacked: Path) -> None:
    names = {path.name for path in unpacked.iterdir()}
    assert names == {"icl", "prompts", "retrievers", "decoding", "experiments", next(unpacked.glob("*.dist-info")).name}
