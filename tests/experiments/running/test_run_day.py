"""Some chat templates write the date into prompts. A run that goes on another day writes the date of its first one."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.results.loaded_run import load_run
from experiments.running.run import run
from experiments.store.invocations import run_day
from experiments.store.store import Store
from icl.models.base import Request
from icl.models.fake import FakeModel


@dataclass(frozen=True)
class Dated(FakeModel):
    """A model that answers with its day."""

    @cached_property
    def day(self) -> date:
        return date(1999, 1, 1)

    def set_day(self, day: date) -> None:
        vars(self)["day"] = day

    def answer_to(self, request: Request) -> str:
        return self.day.isoformat()


def outputs(folder: Path) -> list[str]:
    store = Store(folder)
    return [line["output"] for path in folder.glob("cells/*") for line in store.samples(path.name)]


def test_a_run_that_goes_on_another_day_reads_prompts_of_its_first(
    mapping: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = load_config(mapping(model={"name": f"{__file__}:Dated"}, max_new_tokens=8))
    folder = run(config, tmp_path, limit=2).folder
    today = run_day(Store(folder))
    assert outputs(folder) == [today.isoformat()] * 2
    assert abs((date.today() - today).days) <= 1
    file = folder / "invocations.jsonl"
    line = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(line | {"start": "2026-11-30T23:59:00+0000"}) + "\n", encoding="utf-8")
    run(config, tmp_path)
    assert sorted(outputs(folder)) == sorted([today.isoformat()] * 2 + ["2026-11-30"] * 4)
    (model,) = expand(load_run(folder, trust=True).load_config()).models
    assert vars(model)["day"] == date(2026, 11, 30), "what is rendered of a stored run has the run's date"
    assert run_day(Store(tmp_path / "none")) == date.today()
