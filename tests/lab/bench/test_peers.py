"""Other harnesses against `icl run`: what the benchmark says where they are missing, and that its studies expand."""

import json
import sys
from pathlib import Path

import pytest

from experiments.config.config import load_config
from experiments.grid.grid import expand
from lab.bench import peers


def test_a_python_without_the_harnesses_is_named() -> None:
    texts = [what for what, _, _ in peers.rows(peers=sys.executable)]
    assert [text.split()[0] for text in texts] == ["lmms_eval", "lm_eval"]
    assert all(sys.executable in text for text in texts)


def test_a_study_asks_the_questions_of_the_task_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "MORE", 5)
    for work in (peers._images(tmp_path), peers._text(tmp_path)):
        file = Path(work.ours(tmp_path, 5, 0)[4])
        cells = expand(load_config(file)).cells
        ids = {int(str(query.id).rpartition("-")[2]) - work.first for cell in cells for query in cell.task.queries}
        assert ids == set(range(5)), json.loads(file.read_text())
