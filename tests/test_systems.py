"""Published systems of docs/systems.yaml run on one query of the shipped model, and a proof has its number.

Each third row runs, the experiment of every row is planned, and three proofs are computed. `ICL_PROOFS=all` runs and
computes all of them (`make nightly`).
"""

import json
import os
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

import icl
from experiments.analyses.catalog import find_analysis
from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.config.yaml_document import to_flow_yaml
from experiments.grid.grid import expand
from experiments.results.view_run import view_run
from icl import ConfigError
from icl.registry import build
from lab.systems import PAGE, Number, is_stale, numbers, page, prove, table

CONTENT = table()
ROWS = CONTENT["rows"]
PROVED = [row for row in ROWS if "proof" in row]
CHEAP = ("MMICL", "Assessing Modality Bias (MIS)", "FILIP")
COMPUTED = [row for row in PROVED if row["system"] in CHEAP or os.environ.get("ICL_PROOFS") == "all"]
RUN = ROWS if os.environ.get("ICL_PROOFS") == "all" else ROWS[::3]
MEASURED = numbers()


def name_of(row: Any) -> str:
    return str(row["system"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that rows name."""
    path = tmp_path_factory.mktemp("systems")
    for i in range(5):
        PILImage.new("RGB", (64, 64), (50 * i, 90, 200 - 40 * i)).save(path / f"{i}.png")
    line = {"image_name": "0.png", "label_name": "dax", "positive_list": ["1.png", "2.png"], "positive_promt": "dax",
            "negative_list": ["3.png", "4.png"], "negative_promt": "wug"}  # fmt: skip
    (path / "isekai.jsonl").write_text(json.dumps(line))
    (path / "captions.txt").write_text("a red star\na blue circle\ntwo green arches\n")
    questions = [{"id": f"q{i}", "type": "multiple-response", "question_info": "which?", "options": ["red", "blue"],
                  "answer": "AB", "images": [f"{i}.png"]} for i in range(5)]  # fmt: skip
    (path / "cmmu.jsonl").write_text("\n".join(map(json.dumps, questions)))
    task = build("task", {"name": "counting", "queries": 1, "pool_size": 12})
    examples = [*task.queries, *task.pool("").examples]
    answers = sorted({e.class_name for e in examples})
    shares = {e.id: {name: 0.6 if name == answers[0] else 0.1 for name in answers} for e in examples}
    (path / "predictions.json").write_text(json.dumps(shares))
    return path


def config_of(row: Any, folder: Path) -> Path:
    """The experiment file of a row."""
    keys = {**CONTENT["base"], **row.get("keys", {})}
    keys = {key: value for key, value in keys.items() if key not in keys.get("grid", {})}
    path = folder / "x.yaml"
    path.write_text("\n".join(f"{key}: {to_flow_yaml(value)}" for key, value in keys.items()))
    return path


@pytest.mark.parametrize("row", [row for row in ROWS if row["keys"]], ids=name_of)
def test_the_experiment_of_a_system_has_arms(row: Any, folder: Path) -> None:
    if "tune" in row["keys"]:
        pytest.importorskip("peft", reason="the extra adapters is not installed")
    assert expand(load_config(config_of(row, folder))).cells


@pytest.mark.parametrize("row", RUN, ids=name_of)
def test_a_system_runs_on_one_query(
    row: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "tune" in row["keys"]:
        pytest.importorskip("peft", reason="the extra adapters is not installed")
    config = config_of(row, folder)
    if row["keys"]:
        run = icl.run(config, runs=tmp_path, quiet=True)
        samples = run.samples()
        assert len(samples) > 0
        assert samples["failed"].isna().all()
    if "analyze" in row:
        assert len(find_analysis(row["analyze"])(view_run(run))) > 0
    monkeypatch.chdir(tmp_path)
    for command in row.get("commands", ()):
        program, *words = shlex.split(command.replace("x.yaml", str(config)))
        if program == "python":
            import_module(words[1]).main([*words[2:], "--steps", "2"])
            assert len(capsys.readouterr().out.splitlines()) > 1
        else:
            assert main(words) == 0, capsys.readouterr().err


def test_the_page_is_made_from_the_table_and_the_numbers() -> None:
    assert len(ROWS) == 44
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m lab.systems`"


def test_each_number_belongs_to_the_experiment_of_its_row() -> None:
    assert [*MEASURED] == [name_of(row) for row in PROVED], "run `python -m lab.systems --stale`"
    stale = [name_of(row) for row in PROVED if is_stale(row, CONTENT, MEASURED[row["system"]])]
    assert not stale, f"the experiments of {stale} have changed: run `python -m lab.systems --stale`"


def test_a_changed_experiment_makes_its_number_stale() -> None:
    row = PROVED[0]
    changed = {**row, "proof": {**row["proof"], "keys": {**row["proof"]["keys"], "seeds": [1]}}}
    assert is_stale(changed, CONTENT, MEASURED[row["system"]])
    assert is_stale(row, {**CONTENT, "proof_base": {}}, MEASURED[row["system"]])


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_a_row_works_by_its_interval_or_says_why_not(row: Any) -> None:
    number = MEASURED.get(row["system"])
    works = number is not None and number.works
    assert works == ("runs" not in row)
    if number is not None:
        assert number.low <= number.difference <= number.high
        assert number.difference == pytest.approx(number.mean - number.control, abs=2e-4)
        assert number.n >= 40


def test_a_system_works_only_on_the_side_that_its_claim_states() -> None:
    number = Number("", 0.7, 0.5, 0.2, 0.1, 0.3, 60, sign=1)
    assert number.works
    for other in ({"sign": -1}, {"low": -0.1}, {"low": 0.0}):
        assert not Number(**{**vars(number), **other}).works


@pytest.mark.parametrize("row", COMPUTED, ids=name_of)
def test_a_proof_gives_its_number(row: Any, tmp_path: Path) -> None:
    stored, computed = MEASURED[row["system"]], prove(row, CONTENT, tmp_path)
    assert computed.works == stored.works
    assert computed.difference == pytest.approx(stored.difference, abs=0.05)  # processors round differently


def test_of_several_controls_the_number_is_that_of_the_one_nearest_to_the_arm(tmp_path: Path) -> None:
    task = {"name": "binding", "ways": 4, "concepts": 8, "queries": 20}
    keys = {"task": task, "model": "fake-vote", "shots": 1, "grid": {"retriever": ["random", "diverse_subset", "knn"]}}
    proofs = [
        [{"retriever": one} for one in names]
        for names in (("random",), ("diverse_subset",), ("random", "diverse_subset"))
    ]
    numbers = []
    for i, against in enumerate(proofs):
        (tmp_path / str(i)).mkdir()
        row = {"system": "knn", "proof": {"keys": keys, "arm": {"retriever": "knn"}, "against": against}}
        numbers.append(prove(row, CONTENT, tmp_path / str(i)))
    random, diverse, both = numbers
    assert random.difference != diverse.difference
    assert both.difference == min(random.difference, diverse.difference)
    assert both.low <= min(random.low, diverse.low), "both comparisons are corrected together"


def test_a_claim_that_the_run_cannot_test_is_an_error(tmp_path: Path) -> None:
    row = {
        "system": "nothing",
        "proof": {
            "keys": {"task": {"name": "counting", "queries": 2}, "model": "fake-vote", "shots": 1},
            "arm": {"retriever": "random"},
            "against": {"retriever": "knn"},
        },
    }
    with pytest.raises(ConfigError, match=r"nothing: .* no arm has retriever 'knn'"):
        prove(row, CONTENT, tmp_path)
