"""A real server that stops in the middle of a run: what was answered is kept, the same command asks for the rest."""

import json
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

from server_process import started

from experiments.config import load
from experiments.run import run
from icl.errors import ModelError

CONFIG = """
name: far
task: {{name: binding, ways: 2, queries: 40}}
model: {{name: remote, url: 'http://127.0.0.1:{port}/v1', model: tiny, key_env: ICL_TEST_KEY,
  retries: 1, backoff: 0.1, concurrency: 2}}
shots: 2
max_new_tokens: 6
metrics: [lenient]
decoding: {{name: vcd, alpha: 0.5}}
seeds: [0, 1, 2]
"""
OPTIONS = ["max-num-seqs=32", "kv-cache-memory-bytes=250000000"]


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for file in folder.rglob("cells/*/*.jsonl") for line in file.read_text().splitlines()]


def test_a_server_that_stops_in_the_middle_of_a_run_leaves_the_rest_to_the_same_command(tmp_path: Path) -> None:
    config, runs = tmp_path / "far.yaml", tmp_path / "runs"
    with started("tiny", tmp_path / "log", OPTIONS, name="tiny", max_pictures=4) as serving:
        config.write_text(CONFIG.format(port=serving.port))

        def stop() -> None:
            while len(lines(runs)) < 10:
                time.sleep(0.02)
            serving.process.terminate()

        threading.Thread(target=stop, daemon=True).start()
        with pytest.raises(ModelError, match="What was answered is kept; the same command asks for the rest"):
            run(load(config), runs)
        port = serving.port
    before = lines(runs)
    assert 10 <= len(before) < 120
    with started("tiny", tmp_path / "log2", OPTIONS, name="tiny", max_pictures=4, port=port) as serving:
        outcome = run(load(config), runs)
        assert serving.metric("request_success_total") <= 2 * (120 - len([s for s in before if "output" in s])) + 4
    after = lines(runs)
    assert outcome.failed == 0
    assert outcome.samples == 120
    answered = {(sample["seed"], sample["query"]) for sample in after if "output" in sample}
    assert len(answered) == 120
