"""A real server that stops during a run: answers are kept, and the same command requests the rest."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import zmq
from server_process import shared

from decoding.arms.arm import parse_arm
from decoding.arms.inspection import probe_prompt
from decoding.engine.requests import DecodingRequest, Failure
from decoding.lockstep.engine import run_requests
from experiments.config.config import load_config
from experiments.running.run import run
from icl.errors import ModelError
from icl.models.vllm.model import VLLM
from icl.streams import StreamKey
from icl.types import Generation

CONFIG = """
name: far
task: {{name: binding, ways: 2, queries: 80}}
model: {{name: remote, url: 'http://127.0.0.1:{port}/v1', model: tiny, key_env: ICL_TEST_KEY, probe: false,
  retries: 1, backoff: 0.1, concurrency: 2}}
shots: 2
max_new_tokens: 6
metrics: [lenient]
decoding: {{name: vcd, alpha: 0.5}}
seeds: [0, 1, 2]
"""
SAMPLES = 240
"""80 queries under three seeds. The server stops after ten, and a few more are answered before it does."""

OPTIONS = ["max-num-seqs=32", "kv-cache-memory-bytes=250000000"]


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for file in folder.rglob("cells/*/*.jsonl") for line in file.read_text().splitlines()]


def test_a_server_that_stops_in_the_middle_of_a_run_leaves_the_rest_to_the_same_command(tmp_path: Path) -> None:
    config, runs = tmp_path / "far.yaml", tmp_path / "runs"
    serving = shared("tiny", OPTIONS, name="tiny", max_images=4, fork=True)
    config.write_text(CONFIG.format(port=serving.port))

    def stop() -> None:
        while len(lines(runs)) < 10:
            time.sleep(0.02)
        serving.process.terminate()

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(ModelError, match="Finished answers are stored"):
        run(load_config(config), runs)
    serving.process.wait(60)
    before = lines(runs)
    assert 10 <= len(before) < SAMPLES
    again = shared("tiny", OPTIONS, port=serving.port, name="tiny", max_images=4, fork=True)
    outcome = run(load_config(config), runs)
    assert again.metric("request_success_total") <= 2 * (SAMPLES - len([s for s in before if "output" in s])) + 4
    after = lines(runs)
    assert outcome.failed == 0
    assert outcome.samples == SAMPLES
    answered = {(sample["seed"], sample["query"]) for sample in after if "output" in sample}
    assert len(answered) == SAMPLES


def test_an_engine_that_is_killed_ends_the_run_with_a_message(
    engine_processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine process is killed. Finished results are reported, none is reported as failed, and nothing waits."""
    model = VLLM("tiny", cache_gib=0.1, enforce_eager=True, in_flight=8, engine_args={"max_num_seqs": 8})
    requests = [
        DecodingRequest(replace(probe_prompt(2), key=StreamKey(0, str(i))), parse_arm("vcd")) for i in range(200)
    ]
    results: list[Generation | Failure] = []

    def done(i: int, answer: Generation | Failure) -> None:
        if not results:
            (engine,) = [child for child in active_children() if "EngineCore" in child.name]
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
        results.append(answer)

    monkeypatch.setattr("decoding.lockstep.engine.FETCH_SIZE", 1)
    try:
        with pytest.raises(
            ModelError, match=r"the engine has ended in the middle of the run.*Finished answers are stored"
        ):
            run_requests(model, requests, on_result=done)
        context = model.engine.llm.llm_engine.engine_core.resources.ctx
    finally:
        model.unload()
    # Python ends the context when it collects the engine. It must not wait for a reader that has ended.
    with context.socket(zmq.PAIR) as sender:
        sender.connect("inproc://ended")
        sender.send(b"")
    ending = threading.Thread(target=context.term, daemon=True)
    ending.start()
    ending.join(20)
    assert not ending.is_alive()
    assert 1 <= len(results) < 200
    assert all(isinstance(answer, Generation) for answer in results)
