"""Ten lines in a file outside the packages are a component: used from a YAML by path, checked by `icl check`."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import call_forked

from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.results.loaded_run import load_run
from experiments.running.run import run
from icl.errors import StoreError

RETRIEVER = '''
from dataclasses import dataclass
from icl.types import RetrievedExample

@dataclass(frozen=True)
class LastOnes:
    """The last allowed members of the pool."""
    needs = frozenset()
    nested = True

    def fit(self, pool, resources):
        def retrieve(queries, k, policy):
            return [self.of(pool, query, k, policy) for query in queries]
        return type("Fitted", (), {"retrieve": staticmethod(retrieve)})()

    def of(self, pool, query, k, policy):
        demos = [e for e in reversed(pool.examples) if policy.allowed_for(query)(e)][:k]
        if len(demos) < k:
            raise policy.too_few(pool, query, k)
        return tuple(RetrievedExample(e.id) for e in demos)
'''

STRATEGY = '''
from dataclasses import dataclass
from decoding import Strategy
from icl import edits

@dataclass(frozen=True)
class Blind(Strategy):
    """Contrast with the prompt with blank images."""
    alpha: float = 1.0

    def branches(self, prompt, note=None):
        return prompt, prompt.edit(images=edits.Blank())

    def combine(self, logits, step):
        original, blank = logits
        return (1 + self.alpha) * original - self.alpha * blank
'''

EDIT = '''
from dataclasses import dataclass
from icl.edits import Edit

@dataclass(frozen=True)
class Stripes(Edit):
    """Every other line black."""
    width: int = 1

    def apply_to_image(self, image):
        changed = image.copy()
        for y in range(0, image.height, 2 * self.width):
            changed.paste((0, 0, 0), (0, y, image.width, min(y + self.width, image.height)))
        return changed
'''


@pytest.fixture
def study(yaml_file: Callable[..., Path]) -> Path:
    path = yaml_file("""
        name: own
        task: SHAPES
        model: TOY
        shots: 2
        order: as_retrieved
        grid:
          retriever: [random, "last_ones.py:LastOnes"]
          decoding: [greedy, {name: "blind.py:Blind", alpha: 0.0}, {name: "blind.py:Blind", alpha: 4.0}]
    """)
    (path.parent / "last_ones.py").write_text(RETRIEVER)
    (path.parent / "blind.py").write_text(STRATEGY)
    return path


def test_components_beside_the_file_run_in_a_grid(study: Path, tmp_path: Path) -> None:
    assert run(load_config(study), tmp_path).failed == 0
    frame = load_run(tmp_path / "own").samples()
    own = frame[frame["retriever"] == "LastOnes"]
    assert [demo[0] for demo in own.iloc[0]["demos"]] == ["p-0008", "p-0007"]
    outputs = own.groupby("decoding")["output"].agg(list)
    labels = [label for label in outputs.index if label != "greedy"]
    assert len(labels) == 2
    off, on = sorted(labels, key=lambda label: "4" in label)
    assert outputs["greedy"] == outputs[off] != outputs[on]


def test_code_that_was_edited_is_another_component(study: Path, tmp_path: Path) -> None:
    run(load_config(study), tmp_path)
    assert run(load_config(study), tmp_path).computed == 0
    (study.parent / "blind.py").write_text(STRATEGY.replace("(1 + self.alpha)", "(1.5 + self.alpha)"))
    again = "from experiments.config.config import load_config; from experiments.running.run import run\n"
    again += "import sys, pathlib\n"
    again += "print(run(load_config(sys.argv[1]), pathlib.Path(sys.argv[2])).computed)"
    (tmp_path / "again.py").write_text(again)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = call_forked(["python", "again.py", str(study), str(tmp_path)], tmp_path, environment)
    assert done.stdout.split() == [str(2 * 2 * 6)]


def test_an_edit_of_a_module_or_file_of_the_component_computes_again_and_the_plan_names_them(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, total = study.parent, 3 * 2 * 6
    own = STRATEGY.replace("(1 + self.alpha)", "strength.factor(self.alpha)")
    (folder / "blind.py").write_text(f"import strength\n{own}")
    data = folder / "strength.txt"
    (folder / "strength.py").write_text(
        "from pathlib import Path\n"
        "def factor(alpha): return float(Path(__file__).with_name('strength.txt').read_text()) + alpha\n"
    )
    data.write_text("1")
    assert run(load_config(study), tmp_path).computed == total
    data.write_text("1.5")
    assert run(load_config(study), tmp_path).computed == total - 2 * 6
    (folder / "strength.py").write_text("def factor(alpha): return 1 + alpha\n")
    assert run(load_config(study), tmp_path).computed == total - 2 * 6
    data.write_text("2")
    assert run(load_config(study), tmp_path).computed == 0
    assert main(["plan", str(study), "--runs", str(tmp_path)]) == 0
    assert "answers depend on" in (plan := capsys.readouterr().out)
    assert {"last_ones.py", "blind.py", "strength.py"} <= {*plan.replace(",", " ").split()}


def test_a_grid_of_edited_components_alone_is_refused_as_another_experiment(study: Path, tmp_path: Path) -> None:
    own = ['grid.decoding=["blind.py:Blind"]']
    run(load_config(study, own), tmp_path)
    with pytest.raises(StoreError, match=r"was made with another config \(decoding .*, now greedy\)"):
        run(load_config(study, ["grid.decoding=[greedy]"]), tmp_path)


def test_the_public_checks_run_on_them(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study.parent)
    assert main(["check", "last_ones.py:LastOnes"]) == 0
    assert main(["check", "strategy", "blind.py:Blind", "alpha=0.5"]) == 0
    out = capsys.readouterr().out
    assert "retriever 'last_ones.py:LastOnes' fulfills the contract that every retriever must keep." in out
    assert "2 branches, no mask, weights 1.5, -0.5 (sum 1)" in out


def test_an_edit_beside_the_file_is_a_shift_of_any_task(
    yaml_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = yaml_file("""
        name: shifted
        model: fake-copy
        shots: 1
        grid:
          task: [SHAPES, {name: corrupted, of: SHAPES, by: {name: "stripes.py:Stripes", width: 3}}]
    """)
    (path.parent / "stripes.py").write_text(EDIT)
    monkeypatch.chdir("/")
    assert run(load_config(path), tmp_path).failed == 0
    frame = load_run(tmp_path / "shifted").samples()
    clean, shifted = (own for _, own in frame.groupby("task", sort=False))
    assert list(clean["query"]) == list(shifted["query"])
    for one, other in zip(clean["images"], shifted["images"], strict=True):
        assert (one[0], one[-1] == other[-1]) == (other[0], False), "the pool's images stay as they are"
    assert {meta["domain"] for meta in shifted["meta"]} == {"Stripes (width 3)"}
