"""A study in a real Jupyter kernel: components in cells, run again and edited, and a module next to the notebook."""

import nbformat
import pytest
from journeys.journey import environment
from nbclient import NotebookClient

STRATEGY = '''
@dataclass(frozen=True)
class Scaled(Strategy):
    """The original prompt alone."""

    def branches(self, prompt, note=None):
        return (prompt,)

    def combine(self, logits, step):
        return factor() * logits[0]
'''
FIRST = """
from dataclasses import dataclass
from pathlib import Path

import icl
import weights
from decoding import Strategy
from icl.types import RetrievedExample
from retrievers import FittedRanking


ADDED = 0.25


def factor():
    return 1.0
"""
OTHERS = '''
@dataclass(frozen=True)
class LastOnes:
    """The last examples of the pool."""

    needs = frozenset()

    def fit(self, pool, resources):
        return Fitted(pool)


@dataclass(frozen=True)
class Fitted(FittedRanking):
    def rank(self, query):
        return [RetrievedExample(example.id) for example in reversed(self.pool.examples)]


@dataclass(frozen=True)
class Listed(icl.Metric):
    """A number of the module and of another cell."""

    better = "higher"

    def score(self, generation, example):
        return weights.VALUE + ADDED
'''
RUN = """
run = icl.run(
    {
        "name": "cells",
        "task": {"name": "binding", "ways": 2, "queries": 3},
        "model": {"name": "hf", "path": "tiny"},
        "max_new_tokens": 3,
        "metrics": ["lenient", Listed],
        "grid": {"shots": [2], "retriever": ["random", LastOnes], "decoding": ["greedy", Scaled, Scaled()]},
    },
    quiet=True,
)
frame = run.samples()
own = frame[frame["decoding"] == "Scaled"]
computed = sum(path.read_bytes().count(b"\\n") for path in Path("runs").rglob("cells/*/*.jsonl"))
print(computed, own["output"].tolist(), sorted(set(frame["Listed"])), frame["failed"].notna().sum())
"""
FIRST_EDIT = STRATEGY.replace("factor() * logits", "-factor() * logits")
CELLS = {
    "imports": FIRST,
    "strategy": STRATEGY,
    "others": OTHERS,
    "first": RUN,
    "unchanged": RUN,
    "edited class": FIRST_EDIT + RUN,
    "edited function": "def factor():\n    return -1.0\n" + RUN,
    "edited value": "ADDED = 0.5\n" + RUN,
    "edited module": 'Path("weights.py").write_text("VALUE = 0.125\\n");' + RUN,
    "loaded again": "import importlib\nimportlib.reload(weights)\n" + RUN,
    "autoreload": "%load_ext autoreload\n%autoreload 2\n"
    + 'Path("weights.py").write_text("def value():\\n    return 0.5\\n\\n\\nVALUE = value()\\n");'
    + "importlib.reload(weights);",
    "reading a function": OTHERS.replace("weights.VALUE", "weights.value()") + RUN,
    "edited under autoreload": 'Path("weights.py").write_text(Path("weights.py").read_text().replace("0.5", "0.0625"))',
    "reloaded by the next cell": RUN,
}


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each cell prints, warnings included."""
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "weights.py").write_text("VALUE = 0.25\n", encoding="utf-8")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS.values()])
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment(folder))
    outputs = ["".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells]
    return dict(zip(CELLS, outputs, strict=True))


def test_components_of_cells_run_and_the_same_cell_again_computes_nothing(printed: dict[str, str]) -> None:
    assert printed["first"] == "12 ['nupo', 'hoki', 'olf', 'nupo', 'hoki', 'olf'] [0.5] 0\n"
    assert printed["unchanged"] == printed["first"]


@pytest.mark.parametrize(("cell", "samples"), [("edited class", 18), ("edited function", 24)])
def test_an_edited_class_and_an_edited_function_that_it_calls_give_fresh_answers(
    printed: dict[str, str], cell: str, samples: int
) -> None:
    """Both signs of the logits are computed; the second edit turns the sign back."""
    count, _, outputs = printed[cell].partition(" ")
    assert int(count) == samples
    assert ("'nupo', 'hoki', 'olf'" in outputs) == (cell == "edited function")


def test_an_edited_value_and_a_module_that_was_loaded_again_give_fresh_scores(printed: dict[str, str]) -> None:
    assert "[0.75]" in printed["edited value"]
    assert "[0.625]" in printed["loaded again"]
    assert printed["loaded again"].startswith("24 "), "a metric computes no answer"


def test_a_module_that_was_not_loaded_again_is_warned_of(printed: dict[str, str]) -> None:
    assert "[0.75]" in printed["edited module"], "the scores are those of the code that runs"
    assert "weights.py was edited after this process imported weights" in printed["edited module"]
    assert "Warning" not in printed["edited value"] + printed["loaded again"]


def test_a_module_that_autoreload_changed_in_place_gives_fresh_scores(printed: dict[str, str]) -> None:
    assert "[1.0]" in printed["reading a function"]
    assert "[0.5625]" in printed["reloaded by the next cell"]
    assert "Warning" not in printed["reloaded by the next cell"]
