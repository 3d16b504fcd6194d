from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from experiments.store.json_shapes import MAX_SHOTS, CellShape, InvocationShape, RunShape, check_shape
from icl.errors import StoreError

PATH = Path("runs/study/file.json")


@pytest.mark.parametrize(
    ("shape", "content"),
    [
        (RunShape, {}),
        (RunShape, {"anything": {"else": [1]}, "config": None, "sizes": None}),
        (RunShape, {"cells": ["a", "A_b-1", "f" * 64], "metrics": {"f1": {"name": None, "better": "higher", "x": 1}}}),
        (
            RunShape,
            {"sessions": [{"start": "2026-01-01T00:00:00+0000", "counters": {"a": 1, "b": 0.5}, "reason": "x"}]},
        ),
        (RunShape, {"sessions": [{"arms": {"vcd": {"rows": 3}}}], "config": {"compare": {"to": {"shots": 0}}}}),
        (CellShape, {"labels": {"shots": 0, "task": "a", "seed": 1.5, "x": None, "y": True}}),
        (CellShape, {"labels": {"shots": MAX_SHOTS}, "decoding": {"strategy": {"name": "vcd"}, "sampler": "greedy"}}),
        (CellShape, {"transforms": [{"name": "a"}], "data": {"pool": "x"}, "order": {"name": "x"}, "seed": None}),
        (InvocationShape, {"id": 1, "git": {"toolkit": None, "working_directory": {"commit": "a"}}, "driver": None}),
    ],
)
def test_what_the_toolkit_writes_is_valid(shape: type[BaseModel], content: dict[str, Any]) -> None:
    check_shape(shape, content, PATH)


@pytest.mark.parametrize(
    ("shape", "content", "key"),
    [
        (RunShape, {"name": 7}, "name cannot be 7"),
        (RunShape, {"cells": "abc"}, "cells cannot be 'abc'"),
        (RunShape, {"cells": ["ok", "../up"]}, r"cells\.1 cannot be '\.\./up'"),
        (RunShape, {"cells": ["f" * 65]}, r"cells\.0 cannot be 'f+…'"),
        (RunShape, {"cells": [""]}, r"cells\.0 cannot be ''"),
        (RunShape, {"sizes": ["3"]}, r"sizes\.0 cannot be '3'"),
        (RunShape, {"metrics": {"f1": {"run_level": "yes"}}}, r"metrics\.f1\.run_level cannot be 'yes'"),
        (RunShape, {"metrics": {"f1": 1}}, r"metrics\.f1 cannot be 1"),
        (RunShape, {"config": {"compare": {"to": "shots"}}}, r"config\.compare\.to cannot be 'shots'"),
        (RunShape, {"sessions": [{"start": "yesterday"}]}, r"sessions\.0\.start cannot be 'yesterday'"),
        (RunShape, {"sessions": [{"counters": {"a": "1"}}]}, r"sessions\.0\.counters\.a\.\w+ cannot be '1'"),
        (RunShape, {"sessions": [{"arms": {"vcd": {"rows": 0.5}}}]}, r"sessions\.0\.arms\.vcd\.rows cannot be 0\.5"),
        (RunShape, {"folder": ["a"]}, r"folder cannot be \['a'\]"),
        (CellShape, {"labels": {}}, r"labels\.shots cannot be \{\}"),
        (CellShape, {"labels": {"shots": -1}}, r"labels\.shots cannot be -1"),
        (CellShape, {"labels": {"shots": MAX_SHOTS + 1}}, r"labels\.shots cannot be 1000001"),
        (CellShape, {"labels": {"shots": True}}, r"labels\.shots cannot be True"),
        (CellShape, {"labels": {"shots": 1, "task": ["a"]}}, r"labels\.task\.\w+ cannot be \['a'\]"),
        (CellShape, {"control": 1}, "control cannot be 1"),
        (CellShape, {"seed": "1"}, "seed cannot be '1'"),
        (CellShape, {"decoding": {"strategy": 3}}, r"decoding\.strategy\.\w+ cannot be 3"),
        (CellShape, {"transforms": ["a"]}, r"transforms\.0 cannot be 'a'"),
        (CellShape, {"data": {"pool": 1}}, r"data\.pool cannot be 1"),
    ],
)
def test_a_wrong_value_is_a_sentence_with_file_and_key(
    shape: type[BaseModel], content: dict[str, Any], key: str
) -> None:
    remedy = r"\. Restore the file from a copy, or run the config again under another name\.$"
    with pytest.raises(StoreError, match=rf"^{PATH} is damaged, or another version wrote it: {key}{remedy}"):
        check_shape(shape, content, PATH)


def test_values_that_are_missing_have_these_defaults() -> None:
    run = RunShape.model_validate({"metrics": {"f1": {}}})
    assert run.metrics["f1"].run_level is run.metrics["f1"].accuracy is False
    assert MAX_SHOTS == 1_000_000
    assert CellShape.model_validate({}).control is False


@pytest.mark.parametrize("value", [1, 0.5, "a", True, None])
def test_a_label_is_a_scalar_and_a_counter_is_a_number(value: Any) -> None:
    check_shape(CellShape, {"labels": {"shots": 1, "x": value}}, PATH)
    session = {"sessions": [{"counters": {"a": value}}]}
    if type(value) in (int, float):
        check_shape(RunShape, session, PATH)
    else:
        with pytest.raises(StoreError, match=r"sessions\.0\.counters\.a"):
            check_shape(RunShape, session, PATH)


def test_the_first_wrong_key_is_named() -> None:
    with pytest.raises(StoreError, match="name cannot be 1"):
        check_shape(RunShape, {"name": 1, "file": 2}, PATH)


def test_a_long_value_is_cut_in_the_sentence() -> None:
    for size, text in ((58, f"'{'x' * 58}'"), (59, f"'{'x' * 57}…'")):
        with pytest.raises(StoreError, match=rf"seed cannot be {text}\. Fetch it\.$"):
            check_shape(CellShape, {"seed": "x" * size}, PATH, "Fetch it.")
