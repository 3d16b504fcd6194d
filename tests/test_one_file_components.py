"""A component is one file: six kinds are added to a copy of the packages, one new file each, and used by name."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest
from forked import call_forked

from icl.registry import entries

ROOT = Path(__file__).parents[1]
PACKAGES = ("icl", "prompts", "retrievers", "decoding", "experiments")

FILES: Mapping[str, str] = {
    "icl/tasks/three_colors.py": """
        from dataclasses import dataclass

        from PIL import Image as PILImage

        from icl.images import Image
        from icl.registry import component
        from icl.tasks.base import Pool
        from icl.types import Example

        COLORS = ("red", "green", "blue")


        def _examples(kind: str, count: int) -> list[Example]:
            return [
                Example(
                    id=f"{kind}-{i}",
                    images=(Image.from_pil(PILImage.new("RGB", (8, 8), COLORS[i % 3])),),
                    question="Which color?",
                    answers=(COLORS[i % 3],),
                )
                for i in range(count)
            ]


        POOL = Pool(tuple(_examples("demo", 9)))


        @component("task", "three-colors")
        @dataclass(frozen=True)
        class ThreeColors:
            \"\"\"Images of one color each.\"\"\"

            title = "Three colors"

            @property
            def queries(self) -> list[Example]:
                return _examples("query", 6)

            pool_size = 9

            def pool(self, query_id: str) -> Pool:
                return POOL
    """,
    "retrievers/last.py": """
        from dataclasses import dataclass
        from typing import Any

        from icl import RetrievedExample
        from icl.registry import component


        @component("retriever", "last")
        @dataclass(frozen=True)
        class Last:
            \"\"\"The last examples of the pool.\"\"\"

            needs = frozenset()

            def fit(self, pool: Any, resources: Any) -> Any:
                return _Last(pool)


        @dataclass(frozen=True)
        class _Last:
            pool: Any

            def retrieve(self, queries: Any, k: int, *_: Any, **__: Any) -> Any:
                return [tuple(RetrievedExample(one.id) for one in self.pool.examples[-k:]) for _ in queries]
    """,
    "prompts/composers/arrow.py": """
        from dataclasses import dataclass
        from typing import Any

        from icl import Part, Prompt, Turn
        from icl.registry import component
        from prompts import pieces


        @component("composer", "arrow")
        @dataclass(frozen=True)
        class Arrow:
            \"\"\"One user turn with an arrow before each answer.\"\"\"

            def compose(self, context: Any) -> Prompt:
                parts: list[Any] = []
                for name, demo in pieces.named(context):
                    parts += [*pieces.images(demo, name), *pieces.question(demo, name)]
                    parts += [Part(" -> "), pieces.answer(demo, name), Part("\\n")]
                query = context.query
                parts += [*pieces.images(query, "query"), *pieces.question(query, "query"), Part(" ->")]
                return Prompt((Turn("user", tuple(parts)),), context.key)
    """,
    "decoding/strategies/flat.py": """
        from dataclasses import dataclass
        from typing import Any

        from decoding import Strategy
        from icl.registry import component, parameter


        @component("strategy", "flat")
        @dataclass(frozen=True)
        class Flat(Strategy):
            \"\"\"Divide all logits by a temperature.\"\"\"

            temperature: float = parameter("temperature", 2.0)  # divisor of the logits

            def branches(self, prompt: Any, note: Any = None) -> Any:
                return (prompt,)

            def combine(self, logits: Any, step: Any) -> Any:
                return logits[0] / self.temperature
    """,
    "icl/metrics/answer_length.py": """
        from dataclasses import dataclass
        from typing import Any, ClassVar

        from icl.registry import component


        @component("metric", "answer-length")
        @dataclass(frozen=True)
        class AnswerLength:
            \"\"\"Length of the output in characters, over 100.\"\"\"

            better: ClassVar[str] = "neither"

            def score(self, generation: Any, example: Any) -> float:
                return min(1.0, len(generation.text) / 100)
    """,
    "experiments/launch/pair.py": """
        from dataclasses import dataclass
        from typing import Any, ClassVar

        from experiments.launch.machines import Local
        from icl.registry import component


        @component("launcher", "pair")
        @dataclass(frozen=True)
        class Pair:
            \"\"\"Two processes on this machine.\"\"\"

            workers: ClassVar[int] = 2
            wait: ClassVar[bool] = True

            def check(self) -> None:
                return None

            def start(self, launch: Any) -> Any:
                return Local().start(launch)

            def reattach(self, launch: Any) -> None:
                return None
    """,
    "experiments/observers/lines.py": """
        from dataclasses import dataclass
        from typing import Any

        from experiments.observers.base import Observer
        from icl.registry import component


        @component("observer", "lines")
        @dataclass
        class Lines(Observer):
            \"\"\"A line for each cell.\"\"\"

            def cell(self, labels: Any, scores: Any, samples: int) -> None:
                with open("lines.txt", "a") as file:
                    file.write(f"{labels['decoding']} {labels['shots']} {samples}\\n")
    """,
}
NAMES = {
    "task": "three-colors",
    "retriever": "last",
    "composer": "arrow",
    "strategy": "flat",
    "metric": "answer-length",
    "launcher": "pair",
    "observer": "lines",
}
STUDY = """
    name: added
    task: three-colors
    model: {name: hf, path: tiny}
    retriever: last
    composer: arrow
    metrics: [lenient, answer-length]
    launcher: pair
    observe: lines
    max_new_tokens: 4
    grid:
      shots: [0, 2]
      decoding: [greedy, flat]
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages with one new file for each of seven kinds."""
    folder = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FILES.items():
        assert not (folder / name).exists(), name
        (folder / name).write_text(dedent(text))
    (folder / "study.yaml").write_text(dedent(STUDY))
    return folder


def icl(tree: Path, *words: str) -> str:
    """The output of `icl WORDS` with the packages of the copy."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = call_forked(["icl", *words], tree, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_no_added_name_exists_before() -> None:
    assert not [name for kind, name in NAMES.items() if name in entries(kind)]


def test_added_files_run_by_name_and_no_other_file_changes(tree: Path) -> None:
    icl(tree, "run", "study.yaml", "--runs", "runs")
    sample = icl(tree, "show", "runs/added", "sample", "--arm", "shots=2,decoding=flat")
    assert "->" in sample
    assert "answer-length" in sample
    session = json.loads((tree / "runs/added/run.json").read_text())["sessions"][0]
    assert (session["launcher"]["name"], len(session["workers"])) == ("pair", 2)
    assert sorted((tree / "lines.txt").read_text().splitlines()) == ["flat 0 6", "flat 2 6", "greedy 0 6", "greedy 2 6"]
    assert all(name in icl(tree, "ls", kind) for kind, name in NAMES.items())
