"""What somebody's own component raises is told with its file, line and sample, and fails that sample alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.main import main

PARTS = """
from dataclasses import dataclass
from decoding import Strategy, Traits
from icl.types import RetrievedExample
from prompts.composers.turns import Chat


def about(query):
    return {"q-0001": None}[query.id] if query.id == "q-0001" else query.id


def broken(query):
    if query.id == "q-0001":
        return {}["answer"]  # here


@dataclass(frozen=True)
class Retriever:
    needs = frozenset()

    def fit(self, pool, resources):
        return Fitted(pool)


@dataclass(frozen=True)
class Fitted:
    pool: object

    def retrieve(self, queries, k, policy):
        for query in queries:
            broken(query)
        return [tuple(RetrievedExample(e.id) for e in self.pool.examples[:k]) for _ in queries]


@dataclass(frozen=True)
class Twice(Retriever):
    def fit(self, pool, resources):
        return self

    def retrieve(self, queries, k, policy):
        return [(RetrievedExample("p-0000"),) * k for _ in queries]


@dataclass(frozen=True)
class Orderer:
    needs = frozenset()

    def order(self, context):
        broken(context.query)
        return context


@dataclass(frozen=True)
class Transform:
    needs = frozenset()
    changes_labels = False

    def transform(self, context):
        broken(context.query)
        return context


@dataclass(frozen=True)
class Composer:
    def compose(self, context):
        broken(context.query)
        return Chat().compose(context)


@dataclass(frozen=True)
class Nothing:
    def compose(self, context):
        return None if context.query.id == "q-0001" else Chat().compose(context)


@dataclass(frozen=True)
class Branches(Strategy):
    def branches(self, prompt, note=None):
        if prompt.key.query == "q-0001":
            {}["answer"]  # here
        return (prompt,)


@dataclass(frozen=True)
class Combined(Strategy):
    traits = Traits(draws_random_numbers=True)

    def combine_stateful(self, logits, step, states):
        if any(state.key.query == "q-0001" for state in states):
            {}["answer"]  # here
        return logits[0]


@dataclass(frozen=True)
class Metric:
    better = "higher"

    def score(self, generation, example):
        broken(example)
        return 1.0
"""


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    path = tmp_path / "parts.py"
    path.write_text(PARTS)
    return path


@pytest.fixture
def ran(tmp_path: Path, parts: Path, yaml_file: Callable[..., Path], capsys: Any) -> Callable[..., tuple[int, str]]:
    def make(*words: str, **keys: str) -> tuple[int, str]:
        config = {"model": "TOY", "shots": "2", **keys}
        lines = "".join(f"{key}: {value}\n" for key, value in config.items())
        file = yaml_file(f"name: own\ntask: SHAPES\n{lines}".replace("parts.py", str(parts)))
        status = main(["run", str(file), "--runs", str(tmp_path / "runs"), "--quiet", *words])
        return status, capsys.readouterr().err

    return make


def failed(tmp_path: Path) -> dict[str, str]:
    lines = [json.loads(line) for path in tmp_path.glob("runs/own/cells/*/*.jsonl") for line in path.open()]
    assert len(lines) == 6
    return {line["query"]: line["failed"] for line in lines if line.get("failed")}


@pytest.mark.parametrize(
    ("key", "name", "where"),
    [
        ("retriever", "Retriever", "broken"),
        ("order", "Orderer", "broken"),
        ("transforms", "Transform", "broken"),
        ("composer", "Composer", "broken"),
        ("decoding", "Branches", "Branches.branches"),
        ("decoding", "Combined", "Combined.combine_stateful"),
    ],
)
def test_an_exception_fails_its_own_sample_with_file_line_and_error(
    ran: Any, tmp_path: Path, key: str, name: str, where: str
) -> None:
    parts = tmp_path / "parts.py"
    node = f"'parts.py:{name}'"
    status, _ = ran(**{key: f"[{node}]" if key == "transforms" else node})
    reasons = failed(tmp_path)
    assert status == 1
    assert list(reasons) == ["q-0001"]
    line = reasons["q-0001"].partition("line ")[2].partition(")")[0]
    assert reasons["q-0001"] == f"{where} ({parts}, line {line}) failed: KeyError: 'answer'."
    assert PARTS.splitlines()[int(line) - 1].endswith("# here")
    log = (tmp_path / "runs" / "own" / "errors.log").read_text()
    assert log.count("Traceback (most recent call last)") >= 1
    assert "# here" in log


def test_an_unusable_result_names_the_component_that_returned_it(ran: Any, tmp_path: Path) -> None:
    assert ran(composer="'parts.py:Nothing'")[0] == 1
    assert list(failed(tmp_path).items()) == [
        (
            "q-0001",
            "the return value of parts.py:Nothing cannot be used: "
            "AttributeError: 'NoneType' object has no attribute 'digest'.",
        )
    ]


def test_a_demonstration_that_is_retrieved_twice_fails_its_sample(ran: Any, tmp_path: Path) -> None:
    assert ran(retriever="'parts.py:Twice'")[0] == 1
    assert set(failed(tmp_path).values()) == {
        "retriever Twice returned 'p-0000' twice. It must return each demonstration once (icl check retriever …)."
    }


def test_a_metric_that_raises_stops_the_run_and_names_the_sample(ran: Any, tmp_path: Path) -> None:
    status, err = ran(metrics="['parts.py:Metric']")
    assert status == 2
    assert "for 'q-0001': broken (" in err
    assert "KeyError: 'answer'" in err
    assert "Traceback" not in err
    assert "# here" in (tmp_path / "runs" / "own" / "errors.log").read_text()


def test_debug_shows_tracebacks_as_they_come(ran: Any, tmp_path: Path) -> None:
    status, err = ran("--debug", order="'parts.py:Orderer'")
    assert status == 1
    assert "Traceback (most recent call last)" in err
    assert '{}["answer"]  # here' in err


def test_a_defect_of_the_toolkit_keeps_its_traceback(ran: Any, monkeypatch: Any) -> None:
    import experiments.running.recorder

    def defect(*_: Any) -> None:
        raise ZeroDivisionError

    defect.__code__ = defect.__code__.replace(co_filename=experiments.running.recorder.__file__)
    monkeypatch.setattr(experiments.running.recorder, "baselines", defect)
    with pytest.raises(ZeroDivisionError):
        ran()


def test_a_users_task_that_cannot_be_read_is_an_error_before_anything_runs(
    tmp_path: Path, yaml_file: Callable[..., Path], capsys: Any
) -> None:
    task = tmp_path / "task.py"
    task.write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Mine:\n    title = 'mine'\n"
        "    @property\n    def queries(self):\n        return open('/no/such/file')\n"
        "    def pool(self, query_id): ...\n    pool_size = 1\n"
    )
    file = yaml_file(f"name: own\ntask: '{task}:Mine'\nmodel: fake-gold\n")
    assert main(["run", str(file), "--runs", str(tmp_path / "runs"), "--quiet"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"Mine.queries ({task}, line 7) failed: FileNotFoundError")
    assert err.rstrip().endswith("(--debug shows the traceback)")
