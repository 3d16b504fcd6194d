"""Both of vLLM's model runners, with steps that are planned in turn and ahead. The first in turn: `test_equality.py`.

The second runner is the default on a GPU. On a CPU its kernels run in Triton's interpreter, in a process of its own.
`make test-vllm-long` runs many more requests on it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import groups
import test_equality
from reference import Reference

EQUALITY = Path(test_equality.__file__)


@pytest.mark.parametrize("tight", [True, False], ids=["tight", "roomy"])
def test_the_first_runner_decodes_the_strategys_tokens_if_steps_are_planned_ahead(
    tight: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICL_TEST_ASYNC", "1")
    folder = checkpoints.shared("llava")
    engine = groups.tiny_engine(folder, **(test_equality.TIGHT if tight else {}))
    arms = test_equality.TIGHT_ARMS if tight else groups.ARMS
    requests = groups.decoding_requests(60 if tight else 20, 30 if tight else 12, arms=arms)
    answers = groups.run_requests(engine, requests, trace=not tight)
    engine.check_runner()
    assert test_equality.agreed(engine) == 1
    assert engine.scheduler.counts["violations"] == 0
    assert not tight or engine.scheduler.counts["preempted"] + engine.scheduler.counts["partly preempted"] > 0
    engine.unload()
    test_equality.check(Reference(folder), requests, answers, least=0.9)


@pytest.mark.parametrize(("is_async", "cases"), [("0", "llava-roomy"), ("1", "llava-roomy or llava-tight")])
def test_the_second_runner_decodes_the_strategys_tokens(is_async: str, cases: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(EQUALITY), "-k", cases]
    requests = {"ICL_TEST_REQUESTS": "6", "ICL_TEST_TIGHT_REQUESTS": "32"}
    environment = os.environ | requests | {"ICL_TEST_RUNNER": "2", "ICL_TEST_ASYNC": is_async}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stdout[-4000:]
    assert f"{len(cases.split(' or '))} passed" in ended.stdout
