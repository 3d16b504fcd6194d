"""A study in one Python file, with components of its own: run, run again, edited, opened by the commands."""

import re
from pathlib import Path

import pytest
from journeys.journey import call, stored

STUDY = '''
from dataclasses import dataclass

import icl
from decoding import Strategy
from icl import edits
from icl.types import RetrievedExample


@dataclass(frozen=True)
class Sharper(Strategy):
    """Contrast with the prompt without its images."""

    alpha: float = 0.5

    def branches(self, prompt, note=None):
        return prompt, prompt.edit(images=edits.Blank())

    def combine(self, logits, step):
        original, blank = logits
        return (1 + self.alpha) * original - self.alpha * blank


@dataclass(frozen=True)
class LastOnes:
    """The last allowed examples of the pool."""

    needs = frozenset()
    nested = True

    def fit(self, pool, resources):
        return LastOnesOfPool(pool)


@dataclass(frozen=True)
class LastOnesOfPool:
    pool: object

    def retrieve(self, queries, k, policy):
        return [self.of(query, k, policy) for query in queries]

    def of(self, query, k, policy):
        allowed = [example for example in reversed(self.pool.examples) if policy.allowed_for(query)(example)]
        return tuple(RetrievedExample(example.id) for example in allowed[:k])


@dataclass(frozen=True)
class Length(icl.Metric):
    """Whether the answer is short."""

    better = "higher"

    def score(self, generation, example):
        return float(len(generation.text) < 5)


if __name__ == "__main__":
    run = icl.run(
        {
            "name": "study",
            "task": {"name": "binding", "ways": 2, "queries": 3},
            "model": {"name": "hf", "path": "tiny"},
            "max_new_tokens": 4,
            "metrics": ["lenient", Length],
            "shots": 2,
            "grid": {"retriever": ["random", LastOnes], "decoding": ["greedy", Sharper, Sharper(alpha=2.0)]},
        },
        quiet=True,
    )
    frame = run.samples()
    assert frame["failed"].isna().all(), frame["failed"].dropna().iloc[0]
    assert (frame["Length"] == (frame["output"].str.len() < 5)).all()
    last = frame[frame["retriever"] == "LastOnes"]
    print("demonstrations", sorted({demo[0] for demos in last["demos"] for demo in demos}))
    print("outputs", *frame.sort_values(["retriever", "decoding", "query"])["output"])
'''
SAMPLES = 3 * 2 * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("script")
    (made / "study.py").write_text(STUDY, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def first(folder: Path) -> str:
    return call(folder, "python", "study.py", fresh=True)


def test_components_of_the_script_compute_every_sample(folder: Path, first: str) -> None:
    assert first.startswith("demonstrations ['binding-00000-s014', 'binding-00000-s015'")
    assert stored(folder / "runs" / "study") == SAMPLES


def test_the_commands_read_the_run_or_say_that_its_code_is_in_the_script(folder: Path, first: str) -> None:
    call(folder, "icl", "report", "runs/study", "--trust")
    call(folder, "icl", "report", "runs/study", "--as", "card")
    output = call(folder, "icl", "check", "runs/study", "--trust", status=2)
    assert "samples are unchanged" in output
    assert re.search(
        r"(Sharper|LastOnes) was defined in a script or a notebook, where no other process finds it", output
    )


def test_the_script_run_again_computes_nothing_and_its_edit_computes_again(folder: Path, first: str) -> None:
    files = sorted((path, path.read_bytes()) for path in (folder / "runs").rglob("*.jsonl"))
    assert call(folder, "python", "study.py") == first
    assert sorted((path, path.read_bytes()) for path in (folder / "runs").rglob("*.jsonl")) == files
    edited = STUDY.replace("(1 + self.alpha) * original - self.alpha * blank", "-original")
    (folder / "study.py").write_text(edited, encoding="utf-8")
    assert call(folder, "python", "study.py") != first
