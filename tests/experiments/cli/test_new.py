"""`icl new` writes files that pass the checks unchanged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.api import load_run
from experiments.cli.new import kinds

ICL = Callable[..., Any]


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind != "study"])
def test_a_new_component_passes_its_check_unchanged(icl: ICL, tmp_path: Path, kind: str) -> None:
    done = icl("new", kind, f"my_{kind}")
    assert done.status == 0, done.err
    assert (tmp_path / f"my_{kind}.py").is_file()
    command = next(line for line in done.out.splitlines() if "icl check" in line).split("icl ")[1]
    checked = icl(*command.split())
    assert (checked.status, "fulfills the contract" in checked.out) == (0, True), checked.err


def test_new_components_run_in_a_new_study_as_printed(icl: ICL, tmp_path: Path) -> None:
    assert icl("new", "study", "first.yaml").status == 0
    uses: dict[str, str] = {}
    for kind in kinds().keys() - {"study"}:
        printed = icl("new", kind, f"my_{kind}.py").out.splitlines()[-1].partition("in a study")[2].strip()
        assert f"my_{kind}.py:My{kind.title()}" in printed
        uses |= [printed.split(": ", 1)]
    overrides = [
        f"task={uses['task']}",
        f"metrics={uses['metrics']}",
        f"grid.decoding={uses['decoding']}",
        f"grid.retriever=[{uses['retriever']}]",
        f"observe={uses['observe']}",
        *("grid.shots=[2]", "seeds=[0]", "max_new_tokens=2", "controls=none"),
    ]
    done = icl("run", "first.yaml", *overrides)
    assert done.status == 0, done.err
    assert load_run(tmp_path / "runs" / "first").samples()["failed"].isna().all()
    assert len((tmp_path / "scores.jsonl").read_text().splitlines()) == 2, "one line a cell"


def test_an_existing_file_is_never_replaced(icl: ICL, tmp_path: Path) -> None:
    (tmp_path / "blind.py").write_text("mine")
    done = icl("new", "strategy", "blind")
    assert (done.status, (tmp_path / "blind.py").read_text()) == (2, "mine")
    assert "blind.py exists" in done.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("strategi", "x"), "Did you mean 'strategy'? Kinds: metric, observer, retriever, strategy, study, task."),
        (("strategy", "random"), "would shadow the module 'random'"),
        (("task", "icl.py"), "would shadow the module 'icl'"),
        (("strategy", "a-b"), "letters, digits and '_' only"),
        (("metric", "class"), "letters, digits and '_' only"),
        (("metric", ""), "letters, digits and '_' only"),
        (("metric", "nowhere/mine.py"), "cannot be written: No such file or directory"),
    ],
)
def test_a_name_that_cannot_work_is_a_sentence(icl: ICL, words: tuple[str, str], sentence: str) -> None:
    done = icl("new", *words)
    assert done.status == 2
    assert sentence in done.err
