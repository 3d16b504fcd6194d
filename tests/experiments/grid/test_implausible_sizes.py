"""Implausible sizes are a sentence before anything is read, loaded or computed."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.running.run import run
from icl.errors import ICLError
from icl.registry import PACKAGES, build, entries, resolve

MILLION = 10**6


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            {"max_new_tokens": 10**9},
            "config: max_new_tokens: max_new_tokens must be an integer from 1 to 100000, not 1000000000.",
        ),
        ({"shots": MILLION}, "config: shots: shots must be an integer from 0 to 10000, not 1000000."),
        (
            {"grid": {"shots": [0, MILLION]}},
            "config: grid.shots[1]: shots must be an integer from 0 to 10000, not",
        ),
        ({"shots": 5000}, "config: shots: 5000 demonstrations from a pool of 9 (task 'shapes')."),
        (
            {"model": {"name": "fake-copy", "max_tokens": 4096}, "max_new_tokens": 4096},
            "config: max_new_tokens: an answer of 4,096 tokens leaves no space for a prompt: model 'fake-copy' reads "
            "4,096 tokens, prompt and answer together.",
        ),
        ({"model": {"name": "hf", "token_budget": 10**12}}, "config: model: model 'hf', token_budget: input should be"),
        ({"model": {"name": "hf", "image_cache_mb": 10**12}}, "config: model: model 'hf', image_cache_mb: input"),
        (
            {"model": {"name": "remote", "url": "http://x/v1", "model": "m", "concurrency": MILLION}},
            "config: model: model 'remote', concurrency: input should be less than or equal to 1024, not 1000000.",
        ),
        (
            {"task": {"name": "binding", "queries": 10**9}},
            "config: task: task 'binding', queries: input should be less than or equal to 100000, not 1000000000.",
        ),
    ],
)
def test_an_implausible_size_is_an_error_at_once(
    mapping: Callable[..., dict[str, Any]], tmp_path: Path, keys: dict[str, Any], sentence: str
) -> None:
    node = {key: value for key, value in mapping().items() if key not in keys.get("grid", ())}
    start = time.monotonic()
    with pytest.raises(ICLError) as caught:
        run(load_config({**node, **keys}), tmp_path)
    assert str(caught.value).startswith(sentence)
    assert time.monotonic() - start < 20
    assert not (tmp_path / "t").exists()


def test_a_plan_says_the_same(
    mapping: Callable[..., dict[str, Any]], yaml_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = yaml_file("""
        task: SHAPES
        model: {name: fake-copy, max_tokens: 2000}
        grid: {max_new_tokens: [8, 4000]}
    """)
    assert main(["plan", str(path)]) == 2
    assert "grid.max_new_tokens: an answer of 4,000 tokens leaves no space" in capsys.readouterr().err


def test_an_answer_that_fits_passes(mapping: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    done = run(load_config(mapping(model={"name": "fake-copy", "max_tokens": 4096}, max_new_tokens=4000)), tmp_path)
    assert (done.computed, done.failed) == (6, 0)


def test_generated_tasks_have_a_limit_of_queries() -> None:
    generated = [name for name in entries("task") if resolve("task", name).__module__.startswith("icl.tasks.generated")]
    assert len(generated) >= 10
    assert set(PACKAGES["task"]) == {"icl.tasks", "icl.tasks.drawings", "icl.tasks.generated"}
    for name in generated:
        with pytest.raises(ICLError, match=rf"task '{name}', queries: input should be less than or equal to 100000"):
            build("task", {"name": name, "queries": MILLION})
