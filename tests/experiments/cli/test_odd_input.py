"""Input that no user means: each ends with a sentence and the exit status of a user's mistake, without a traceback."""

import json
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

ICL = Callable[..., Any]
BASE = "task: {name: binding, queries: 3}\nmodel: fake-vote\n"
LONG = "x" * 300
HEX = "0x" + "f" * 4000


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"{BASE}decoding: {{name: vcd, preset: [a]}}\n", "x.yaml:3: decoding: 'vcd' has no preset '['a']'"),
        (f"{BASE}decoding: {{name: vcd, preset: {{a: 1}}}}\n", "x.yaml:3: decoding: 'vcd' has no preset"),
        (
            "task: {name: 7}\nmodel: fake-vote\ngrid: {task.ways: [2, 3]}\n",
            "x.yaml:1: task: a task must be a name or a mapping with the key 'name', not {'name': 7}.",
        ),
        (f"{BASE}shots: {HEX}\n", "x.yaml:3: 0xffffffffffffffffff… is too large a number."),
        (f"{BASE}seeds: [{HEX}]\n", "x.yaml:3: 0xffffffffffffffffff… is too large a number."),
        (f"{BASE}name: {LONG}\n", "x.yaml:3: name: name must have at most 200 characters, not 300."),
    ],
)
def test_an_odd_value_is_an_error_with_its_line(icl: ICL, text: str, sentence: str) -> None:
    Path("x.yaml").write_text(text)
    output = icl("plan", "x.yaml")
    assert (output.status, output.out) == (2, "")
    assert output.err.startswith(sentence)


def test_a_large_number_in_an_override_is_an_error(icl: ICL) -> None:
    Path("x.yaml").write_text(BASE)
    output = icl("plan", "x.yaml", f"shots={HEX}")
    assert output.status == 2
    assert output.err.startswith("command line: shots:1: 0xffff")


def test_an_endless_file_is_no_experiment(icl: ICL) -> None:
    output = icl("plan", "/dev/zero")
    assert output.status == 2
    assert output.err == "/dev/zero has more than 10,000,000 bytes, so it is not an experiment file.\n"
    output = icl("check", "metric", "lenient", "--cases", "/dev/zero")
    assert (output.status, output.err) == (2, "/dev/zero cannot be read: it is not a regular file.\n")


@pytest.mark.parametrize("out", ["no/such/folder/icl.json", ".", ""])
def test_a_schema_that_cannot_be_written_is_an_error(icl: ICL, out: str) -> None:
    output = icl("ls", "schema", "--out", out)
    assert output.status == 2
    assert "cannot be written: " in output.err


@pytest.mark.parametrize(
    "words",
    [
        ("plan", f"{LONG}.yaml"),
        ("run", f"{LONG}.yaml"),
        ("plan", "x.yaml", "--runs", LONG),
        ("run", "x.yaml", "--quiet", "--runs", LONG),
        ("fit", LONG),
        ("report", LONG),
        ("compare", LONG),
        ("show", LONG),
        ("show", LONG, "prompt"),
        ("show", LONG, "--follow"),
        ("analyze", LONG, "copying"),
        ("check", "metric", f"{LONG}.py:Mine"),
        ("check", "metric", "lenient", "--cases", LONG),
        ("check", f"{LONG}/card.json"),
        ("ls", "runs", LONG),
        ("show", LONG, "scores", "--as", "pdf"),
        ("try", LONG, "--model", "tiny"),
        ("data", "check", LONG),
        ("import", LONG, "greedy=x"),
        ("import", "run", f"greedy={LONG}"),
        ("export", "custom_generate", "vcd", "--to", LONG),
        ("export", "custom_generate", "vcd", "--to", f"folder/{LONG}"),
    ],
)
def test_a_path_that_is_too_long_is_an_error(icl: ICL, words: tuple[str, ...]) -> None:
    Path("x.yaml").write_text(BASE)
    output = icl(*words)
    assert (output.status, output.err.count("\n")) == (2, 1)
    assert LONG in output.err


def test_sys_exit_in_a_component_is_an_error_of_the_component(icl: ICL) -> None:
    head = (
        "import sys\nfrom dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Mine:\n    better = 'higher'\n"
    )
    score, stop = "    def score(self, *a): return 1.0\n", "    def __post_init__(self): sys.exit(0)\n"
    Path("built.py").write_text(head + stop + score)
    Path("called.py").write_text(head + score.replace("return 1.0", "sys.exit(0)"))
    Path("x.yaml").write_text(BASE)
    for command in ("plan", "run"):
        output = icl(command, "x.yaml", "metrics=[built.py:Mine]")
        assert output.status == 2
        assert "built.py, line 7) failed: SystemExit: 0." in output.err
    output = icl("run", "x.yaml", "--quiet", "metrics=[called.py:Mine]")
    assert output.status == 2
    assert "called.py, line 7) failed: SystemExit: 0." in output.err


@pytest.mark.parametrize(
    "damage",
    [
        "[]",
        "7",
        "",
        "[" * 100_000,
        '{"a":' * 100_000,
        {"cells": 7},
        {"cells": [7]},
        {"cells": ["../../x"]},
        {"config": 7},
        {"config": {"compare": {"metric": [7]}}},
        {"sizes": 7},
        {"metrics": None},
        {"metrics": [[]]},
        {"metrics": {"lenient": 7}},
        {"sessions": 7},
        {"sessions": [7]},
        {"sessions": {"a": 7}},
        {"sessions": [{"counters": 7}]},
        {"sessions": [{"start": "yesterday"}]},
    ],
)
def test_a_run_file_of_a_wrong_shape_is_an_error(icl: ICL, written: Any, damage: Any) -> None:
    run = written(queries=2, tasks=["shapes"], shots=[0], seeds=[0])
    file = run.path / "run.json"
    file.write_text(damage if isinstance(damage, str) else json.dumps({**json.loads(file.read_text()), **damage}))
    for command, *more in (["report"], ["compare"], ["show"], ["show", "progress"]):
        output = icl(command, str(run.path), *more)
        assert output.status == 2
        assert output.err.startswith(f"{file} is damaged")
        assert output.err.count("\n") == 1


@pytest.mark.parametrize("damage", [{"seed": "x"}, {"labels": 7}, {"labels": {"task": []}}, {"decoding": [1]}])
def test_a_cell_file_of_a_wrong_shape_is_an_error(icl: ICL, written: Any, damage: Any) -> None:
    run = written(queries=2, tasks=["shapes"], shots=[0], seeds=[0])
    file = sorted(run.path.glob("cells/*/cell.json"))[0]
    file.write_text(json.dumps({**json.loads(file.read_text()), **damage}))
    output = icl("report", str(run.path))
    assert output.status == 2
    assert output.err.startswith(f"{file} is damaged")


def test_lines_that_are_no_samples_are_left_out(icl: ICL, written: Any) -> None:
    damages: list[dict[str, Any]] = [
        {"shots": [2]},
        {"output": 7},
        {"group": ["a"]},
        {"failed": 1},
        {"options": [["a"]]},
        {"image_of": [99]},
        {"demos": [["a"]]},
        {"scores": {"lenient": "right"}},
    ]
    run = written(queries=len(damages) + 2, tasks=["shapes"], shots=[0], seeds=[0])
    for file in run.path.glob("cells/*/*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        pairs = zip_longest(lines, damages, fillvalue={})
        file.write_text("".join(json.dumps(line | damage) + "\n" for line, damage in pairs))
    assert set(run.samples()["query"]) == {"shapes-0008", "shapes-0009"}
    assert icl("report", str(run.path)).status == 0


def test_a_mapping_that_contains_itself_is_an_error() -> None:
    from experiments.config.config import load_config
    from icl.errors import ConfigError

    task: dict[str, Any] = {"name": "binding"}
    task["of"] = task
    with pytest.raises(ConfigError, match="config: lists or mappings are nested too deeply"):
        load_config({"task": task, "model": "fake-vote"})
