"""Token counts of a plan, which the next plan reads from the cache."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.grid.grid import Grid, expand
from experiments.planning.plan import make_plan
from experiments.planning.plan_text import format_plan
from icl.models.hf.model import HF

CONFIG: dict[str, Any] = {
    "name": "t",
    "model": {"name": "hf", "path": "tiny"},
    "task": {"name": "binding", "queries": 3},
    "grid": {"shots": [0, 2], "decoding": ["greedy", "vcd"]},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _grid(**more: Any) -> Grid:
    return expand(load_config(CONFIG | more))


def _refuse_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HF, "count_tokens", lambda *_: pytest.fail("a prompt was counted again"))
    monkeypatch.setattr(HF, "max_tokens", property(lambda _: pytest.fail("the config was read again")))


def test_a_second_plan_counts_no_prompt_and_is_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(format_plan(make_plan(_grid())))
    _refuse_counting(monkeypatch)
    assert list(format_plan(make_plan(_grid()))) == first


def test_a_plan_with_new_prompts_counts_these_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_plan(_grid())
    counted: list[str] = []
    count_tokens = HF.count_tokens
    monkeypatch.setattr(
        HF, "count_tokens", lambda self, prompt: counted.append(prompt.digest) or count_tokens(self, prompt)
    )
    plan = make_plan(_grid(grid={"shots": [0, 2, 3]}))
    assert 0 < len(counted) == len(set(counted)) <= 3
    monkeypatch.setattr(HF, "count_tokens", count_tokens)
    (file,) = cache.rglob("token_counts/*.json")
    file.unlink()
    assert list(format_plan(make_plan(_grid(grid={"shots": [0, 2, 3]})))) == list(format_plan(plan))


def test_another_checkpoint_has_its_own_counts(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    model = _grid().models[0]
    shutil.copytree(str(model.checkpoint.folder), tmp_path / "copy")  # type: ignore[attr-defined]
    make_plan(_grid())
    template = tmp_path / "copy" / "chat_template.jinja"
    template.write_text("x x x x " + template.read_text())
    longer = make_plan(_grid(model={"name": "hf", "path": str(tmp_path / "copy")}))
    assert longer.work.tokens > make_plan(_grid()).work.tokens
    assert len(list(cache.rglob("token_counts/*.json"))) == 2


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_file_of_counts_is_made_again(cache: Path, content: str) -> None:
    first = list(format_plan(make_plan(_grid())))
    (file,) = cache.rglob("token_counts/*.json")
    counts = json.loads(file.read_text())
    file.write_text(content)
    assert list(format_plan(make_plan(_grid()))) == first
    assert json.loads(file.read_text()) == counts


def test_the_counts_of_an_endpoint_are_not_stored(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HF, "is_endpoint", True)
    make_plan(_grid())
    assert not list(cache.rglob("token_counts/*"))


def test_a_second_plan_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(CONFIG))
    code = (
        "import sys; from experiments.cli.main import main; status = main(['plan', 't.json'])\n"
        "print(status, sorted({'torch', 'transformers', 'pandas', 'torchvision'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    first, second = (
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    assert second == first.rpartition("0 [")[0] + "0 []\n"
