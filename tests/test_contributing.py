"""What CONTRIBUTING shows is run as it stands there: a composer and a metric of one's own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.results.loaded_run import load_run

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
STUDY = """
name: own
task: {name: binding, ways: 2, queries: 4}
model: fake-vote
shots: 2
composer: {name: "arrows.py:Arrows", arrow: " -> "}
metrics: [lenient, "token_f1.py:TokenF1"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", TEXT, re.DOTALL)
    assert [name for name, _ in blocks] == ["arrows.py", "token_f1.py"]
    for name, text in blocks:
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "own.yaml").write_text(STUDY, encoding="utf-8")
    return tmp_path


def icl(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "experiments.cli.main", *words], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("kind", "path"), [("composer", "arrows.py:Arrows"), ("metric", "token_f1.py:TokenF1")])
def test_the_public_checks_pass_on_them_with_the_command_that_is_shown(folder: Path, kind: str, path: str) -> None:
    assert f"`icl check {kind} {path}`" in TEXT
    done = icl(folder, "check", kind, path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_they_run_from_a_yaml_and_do_what_they_say(folder: Path) -> None:
    done = icl(folder, "run", "own.yaml")
    assert done.returncode == 0, done.stderr
    frame = load_run(folder / "runs" / "own").samples()
    assert frame["failed"].isna().all()
    first = frame.iloc[0]
    demos = [f"<image>{first['question']} -> {answer}\n" for *_, answer in first["demos"]]
    assert first["prompt"] == "[user] " + "".join(demos) + f"<image>{first['question']} ->"
    assert set(frame["TokenF1"]) == {0.0, 1.0} or list(frame["TokenF1"]) == list(frame["lenient"])
