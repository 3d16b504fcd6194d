"""A project whose folders have the names of the toolkit's packages: every way of use works there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import icl

ROOT = Path(icl.__file__).parents[1]
FOLDERS = ("experiments", "prompts", "retrievers", "decoding")
CONFIG = """
name: x
task: {name: binding, queries: 2}
model: fake-copy
shots: 1
composer: "prompts/mine.py:Mine"
"""
COMPONENT = """
from dataclasses import dataclass
from prompts.composers.turns import Chat

@dataclass(frozen=True)
class Mine(Chat):
    pass
"""
SCRIPT = """
import icl
run = icl.run("experiments/x.yaml", quiet=True)
print(len(run.samples()), "samples")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with four packages, an experiment file, a component and a script."""
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('a package of the project was run')\n")
    (tmp_path / "experiments" / "x.yaml").write_text(CONFIG)
    (tmp_path / "prompts" / "mine.py").write_text(COMPONENT)
    (tmp_path / "study.py").write_text(SCRIPT)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "icl", "run", "experiments/x.yaml", "--quiet"),
        ("-c", "import sys; from icl.__main__ import main; sys.exit(main())", "run", "experiments/x.yaml", "--quiet"),
        ("study.py",),
        ("-c", SCRIPT),
    ],
    ids=["python -m icl", "icl", "script", "notebook"],
)
@pytest.mark.parametrize("path", [(ROOT,), (".", ROOT)], ids=["installed", "PYTHONPATH=."])
def test_a_study_runs_beside_packages_of_the_same_names(
    project: Path, words: tuple[str, ...], path: tuple[str]
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(
        [sys.executable, *words], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(list((project / "runs" / "x").glob("cells/*/*.jsonl"))) == 1


def test_the_command_of_the_package_is_the_guarded_one() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"icl": "icl.__main__:main"}
