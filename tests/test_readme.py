"""Custom components of the README and the docs pass their checks and run; tests/journeys runs the README's study."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from experiments.api import load_run
from experiments.cli.main import main

ROOT = Path(__file__).parent.parent
Icl = Callable[..., Any]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = README + (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
OWN = """
name: own
task: {name: binding, ways: 2, queries: 4}
model: fake-vote
shots: 2
composer: {name: "arrows.py:Arrows", arrow: " -> "}
metrics: [lenient, "token_f1.py:TokenF1"]
"""


def block(first_line: str) -> str:
    """The fenced block that starts with this line."""
    blocks = [text for text in re.findall(r"```\w+\n(.*?)```", DOCUMENTS, re.DOTALL) if text.startswith(first_line)]
    assert len(blocks) == 1, f"the documents have {len(blocks)} blocks that begin with {first_line!r}"
    return blocks[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("study.yaml", "blank.py", "same_type.py", "arrows.py", "token_f1.py"):
        (tmp_path / name).write_text(block(f"# {name}"), encoding="utf-8")
    return tmp_path


class Outcome(NamedTuple):
    """The result of a command."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def icl(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Icl:
    """Runs a command in the folder, in this process."""
    monkeypatch.chdir(folder)

    def call(*words: str) -> Outcome:
        return Outcome(main(words), *capsys.readouterr())

    return call


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("strategy", "blank.py:Blank"),
        ("retriever", "same_type.py:SameType"),
        ("composer", "arrows.py:Arrows"),
        ("metric", "token_f1.py:TokenF1"),
    ],
)
def test_the_public_checks_pass_on_them(icl: Icl, kind: str, path: str) -> None:
    done = icl("check", kind, path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_error_in_the_readme_is_the_actual_error(folder: Path, icl: Icl) -> None:
    study = folder / "study.yaml"
    study.write_text(study.read_text().replace("{name: knn,", "{name: knnn,"))
    done = icl("run", "study.yaml")
    assert done.returncode == 2
    message = next(line.strip() for line in README.splitlines() if "knnn" in line)
    assert message in done.stderr


def test_a_custom_composer_and_metric_run_from_the_yaml_by_path(folder: Path, icl: Icl) -> None:
    (folder / "own.yaml").write_text(OWN, encoding="utf-8")
    done = icl("run", "own.yaml")
    assert done.returncode == 0, done.stderr
    frame = load_run(folder / "runs" / "own").samples()
    assert frame["failed"].isna().all()
    first = frame.iloc[0]
    demos = [f"<image>{first['question']} -> {answer}\n" for *_, answer in first["demos"]]
    assert first["prompt"] == "[user] " + "".join(demos) + f"<image>{first['question']} ->"
    assert set(frame["TokenF1"]) == {0.0, 1.0} or list(frame["TokenF1"]) == list(frame["lenient"])
