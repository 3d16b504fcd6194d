"""`icl data check` of every preset, on rows with the documented columns of its data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from documented_rows import FILES, HUB, write_documented_rows

from icl.registry import build
from icl.tasks.presets import PRESETS


def test_every_preset_has_documented_columns() -> None:
    assert sorted(HUB) == [name for name in PRESETS if "path" in PRESETS[name]]
    assert sorted({**HUB, **FILES}) == list(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_reads_the_documented_columns_and_names_those_that_are_gone(
    preset: str, icl: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    path = write_documented_rows(preset, tmp_path)
    words = ("data", "check", preset, *(() if preset in HUB else ("--path", path.name)))
    done = icl(*words)
    assert (done.status, done.err) == (0, ""), done.out
    documented = HUB[preset](0) if preset in HUB else FILES[preset][1](0)
    named = {name for _, name in build("task", {"name": "hub", "preset": preset, "path": "x"}).named_columns}
    if gone := sorted(named & {*documented}):
        write_documented_rows(preset, tmp_path, gone)
        done = icl(*words)
        assert done.status == 1
        absent = done.out.splitlines()[0].removeprefix("absent ").partition(": the data")[0]
        assert sorted(part.split(" (")[0] for part in absent.strip().split(", ")) == gone
