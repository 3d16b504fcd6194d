"""The README's commands in a fresh folder, with components and data of one's own, killed and continued."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from journeys.journey import ROOT, call, environment, stored
from PIL import Image

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXTENDING = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = ("study.yaml", "blank.py", "same_type.py")
OVERRIDES = (
    *("task.queries=8", "grid.shots=[0,2]", "max_new_tokens=4", "controls=none"),
    "grid.decoding=[greedy, {name: 'blank.py:Blank', alpha: 0.5}]",
    "grid.retriever=[random, 'same_type.py:SameType']",
)
SAMPLES = 8 * 2 * 2 * (1 + 2)
OWN_DATA = """
name: colors
task:
  name: hub
  path: data/colors.jsonl
  columns: {question: question, image: image, answer: answer}
model: fake-vote
metrics: [lenient, "token_f1.py:TokenF1"]
grid: {shots: [0, 2], retriever: [random, "same_type.py:SameType"]}
"""


def fenced(first_line: str) -> str:
    (text,) = (
        text for text in re.findall(r"```\w+\n(.*?)```", README + EXTENDING, re.DOTALL) if text.startswith(first_line)
    )
    return str(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fresh")
    for name in (*FILES, "token_f1.py"):
        (made / name).write_text(fenced(f"# {name}\n"), encoding="utf-8")
    return made


def test_a_killed_study_continues_and_gives_what_the_readme_shows(folder: Path) -> None:
    plan = call(folder, "icl", "plan", "study.yaml", *OVERRIDES)
    assert re.search(r"^own code +answers depend on blank\.py, same_type\.py$", plan, re.MULTILINE), plan
    study, command = folder / "runs" / "study", ("icl", "run", "study.yaml", *OVERRIDES)
    process = subprocess.Popen(
        [*command, "--quiet"], cwd=folder, env=environment(folder), start_new_session=True, stdout=subprocess.DEVNULL
    )
    while stored(study) == 0 and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < (present := stored(study)) < SAMPLES

    continued = call(folder, *command)
    assert f"{SAMPLES} samples, {present} of them there already" in continued
    assert re.search(rf"^done +{SAMPLES - present} samples, 0 failed", continued, re.MULTILINE)
    assert stored(study) == SAMPLES
    assert "Blank" in call(folder, "icl", "compare", "runs/study", "--to", "decoding=greedy")
    assert "Blank" in (study / "report.html").read_text(encoding="utf-8")

    (folder / "page.py").write_text(fenced("import icl\n") + "print(sorted(set(frame['shots'])), differences.empty)\n")
    assert "[0, 2] False" in call(folder, "python", "page.py")


def test_a_data_file_of_ones_own_runs_with_components_of_ones_own(folder: Path) -> None:
    (folder / "data").mkdir()
    rows = []
    for number in range(12):
        color = ("red", "green", "blue")[number % 3]
        Image.new("RGB", (32, 32), color).resize((32 + number, 32)).save(folder / "data" / f"{number}.png")
        rows.append(f'{{"question": "What color is it?", "image": "{number}.png", "answer": "{color}"}}\n')
    (folder / "data" / "colors.jsonl").write_text("".join(rows), encoding="utf-8")
    (folder / "colors.yaml").write_text(OWN_DATA, encoding="utf-8")
    done = call(folder, "icl", "run", "colors.yaml")
    assert "0 failed" in done
    assert "TokenF1" in call(folder, "icl", "show", "runs/colors", "scores", "--metric", "TokenF1")
