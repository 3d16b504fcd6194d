"""Options that `icl serve` refuses before it starts, such as a public address without a key."""

import importlib.util
import json
import socket
from typing import Any

import pytest

from experiments.cli import serve
from icl.errors import ConfigError
from icl.models.vllm.model import VLLM


def test_other_machines_need_a_key(icl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(serve.os, "execve", lambda *arguments: started.append(arguments))
    for host in ("0.0.0.0", "::", "192.168.1.7", "my-machine"):
        outcome = icl("serve", "tiny", "--host", host)
        assert outcome.status == 2
        assert f"--host {host} exposes the server to other machines, but it has no key." in " ".join(
            outcome.err.split()
        )
    monkeypatch.delenv("NOT_SET", raising=False)
    outcome = icl("serve", "tiny", "--host", "0.0.0.0", "--api-key-env", "NOT_SET")
    assert outcome.status == 2
    assert "the environment variable NOT_SET is not set" in outcome.err
    assert not started


@pytest.fixture
def pretend_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretends that vLLM is installed; its arguments are built without it."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name == "vllm" or find(name, *rest))


def value(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(f"--{option}") + 1]


@pytest.mark.usefixtures("pretend_vllm")
def test_it_listens_on_this_machine_by_default(icl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(serve.os, "execve", lambda program, words, environment: started.append((words, environment)))
    outcome = icl("serve", "tiny", "--port", "18273")
    assert outcome.status == 0
    assert "model 'tiny' at http://127.0.0.1:18273/v1, once it is loaded" in " ".join(outcome.err.split())
    ((words, environment),) = started
    assert value(words, "host") == "127.0.0.1"
    assert value(words, "port") == "18273"
    assert value(words, "scheduler-cls").endswith("LockstepScheduler")
    assert "VLLM_API_KEY" not in environment


@pytest.mark.usefixtures("pretend_vllm")
def test_steps_are_planned_ahead_on_a_gpu_unless_an_option_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from icl.models.vllm.model import VLLM

    def scheduling(device: str, *options: str) -> tuple[str, str]:
        monkeypatch.setattr(VLLM, "device_type", device)
        arguments, _ = serve.server("tiny", "127.0.0.1", 8000, options=list(options))
        flag = next(word for word in arguments if word.endswith("async-scheduling"))
        return value(arguments, "scheduler-cls").rpartition(".")[2], flag

    planned_ahead, in_turn = (
        ("AsyncLockstepScheduler", "--async-scheduling"),
        ("LockstepScheduler", "--no-async-scheduling"),
    )
    assert scheduling("cuda") == planned_ahead
    assert scheduling("cuda", "no_async_scheduling") == in_turn
    assert scheduling("cpu") == in_turn


@pytest.mark.usefixtures("pretend_vllm")
def test_a_key_is_passed_in_the_environment_and_in_no_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "a secret of mine")
    arguments, environment = serve.server("tiny", "0.0.0.0", 8000, api_key_env="MY_KEY")
    assert value(arguments, "host") == "0.0.0.0"
    assert environment["VLLM_API_KEY"] == "a secret of mine"
    assert not any("secret" in word for word in arguments)
    for way in ("host=0.0.0.0", "--host=0.0.0.0"):  # not past the check
        with pytest.raises(ConfigError, match=r"--option host.* is set by icl serve itself"):
            serve.server("tiny", "127.0.0.1", 8000, options=[way])


def test_without_vllm_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "vllm" else find(name, *rest))
    with pytest.raises(
        ConfigError, match=r"needs the package vllm, .*pip install 'mm-icl\[vllm\]', in a checkout '\.\[vllm\]'"
    ):
        serve.server("tiny", "127.0.0.1", 8000)


@pytest.mark.usefixtures("pretend_vllm")
def test_a_used_port_is_reported_before_a_model_is_loaded(icl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(serve.os, "execve", lambda *arguments: started.append(arguments))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        outcome = icl("serve", "tiny", "--port", str(port))
    assert outcome.status == 2
    assert f"--port {port}: the port cannot be opened on 127.0.0.1" in " ".join(outcome.err.split())
    assert icl("serve", "tiny", "--port", "70000").status == 2
    assert not started
    assert icl("serve", "tiny", "--port", str(port)).status == 0


@pytest.mark.usefixtures("pretend_vllm")
@pytest.mark.parametrize("way", ["hos=0.0.0.0", "--ho=0.0.0.0", "middlewar=os:system", "=x", "scheduler_c=X"])
def test_a_prefix_of_an_option_is_that_option(way: str) -> None:
    with pytest.raises(ConfigError, match=r"--option .* is set by icl serve itself"):
        serve.server("tiny", "127.0.0.1", 8000, options=[way])


@pytest.mark.usefixtures("pretend_vllm")
def test_images_are_fetched_from_the_named_hosts_only() -> None:
    assert "none" in value(serve.server("tiny", "127.0.0.1", 8000)[0], "allowed-media-domains")
    options = ["allowed-media-domains=images.example", "shutdown-timeout=0"]
    arguments, environment = serve.server("tiny", "127.0.0.1", 8000, options=options)
    assert value(arguments, "allowed-media-domains") == "images.example"
    assert value(arguments, "shutdown-timeout") == "0"
    assert int(environment["VLLM_MAX_IMAGE_PIXELS"]) <= 100_000_000


@pytest.mark.usefixtures("pretend_vllm")
@pytest.mark.skipif(VLLM().device_type != "cpu", reason="needs a machine without a GPU")
def test_without_a_gpu_the_default_cache_is_two_gib() -> None:
    arguments, _ = serve.server("tiny", "127.0.0.1", 8000)
    assert value(arguments, "kv-cache-memory-bytes") == str(2 * 2**30)
    arguments, _ = serve.server("tiny", "127.0.0.1", 8000, options=["kv-cache-memory-bytes=1000"])
    assert value(arguments, "kv-cache-memory-bytes") == "1000"
    arguments, _ = serve.server("tiny", "127.0.0.1", 8000, options=["--gpu_memory_utilization=0.5"])
    assert "--kv-cache-memory-bytes" not in arguments


@pytest.mark.usefixtures("pretend_vllm")
def test_a_strategy_has_a_model_name_of_its_own() -> None:
    named = ["tiny-vcd={name: vcd, alpha: 0.5}", "tiny-cad=cad"]
    arguments, _ = serve.server("tiny", "127.0.0.1", 8000, name="tiny", strategy_models=named)
    place = arguments.index("--served-model-name")
    assert arguments[place + 1 : place + 5] == ["tiny", "tiny-vcd", "tiny-cad", "--host"]
    models = json.loads(value(arguments, "additional-config"))["strategy_models"]
    assert models == {"tiny-vcd": {"name": "vcd", "alpha": 0.5}, "tiny-cad": "cad"}


@pytest.mark.usefixtures("pretend_vllm")
@pytest.mark.parametrize(
    ("named", "message"),
    [
        (["tiny-vcd"], "^--as: write NAME=STRATEGY, such as tiny-vcd=vcd"),
        (["a="], "^--as: write NAME=STRATEGY"),
        (["a=3"], "^--as: write NAME=STRATEGY"),
        (["a=[vcd]"], "^--as: write NAME=STRATEGY"),
        (["-a=vcd"], "^--as: write NAME=STRATEGY"),
        (["=vcd"], "--as: write NAME=STRATEGY"),
        (["tiny=vcd"], "--as tiny=vcd: 'tiny' is already in use"),
        (["a=vcd", "a=cad"], "--as a=cad: 'a' is already in use"),
        (["a={name: vcd"], "--as a"),
    ],
)
def test_names_and_strategies_are_checked_before_a_model_is_loaded(named: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        serve.server("tiny", "127.0.0.1", 8000, strategy_models=named)
