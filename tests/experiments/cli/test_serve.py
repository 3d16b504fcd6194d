"""What `icl serve` refuses before anything starts: an address that others reach needs a key."""

import importlib.util
import socket
from typing import Any

import pytest

from experiments.cli import serve
from icl.errors import ConfigError
from icl.models.vllm.model import VLLM


def test_others_reach_it_only_with_a_key(icl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(serve.os, "execve", lambda *arguments: started.append(arguments))
    for host in ("0.0.0.0", "::", "192.168.1.7", "my-machine"):
        told = icl("serve", "tiny", "--host", host)
        assert told.status == 2
        assert f"--host {host} lets others reach the server, and it has no key." in " ".join(told.err.split())
    monkeypatch.delenv("NOT_SET", raising=False)
    told = icl("serve", "tiny", "--host", "0.0.0.0", "--api-key-env", "NOT_SET")
    assert told.status == 2
    assert "the environment variable NOT_SET is not set" in told.err
    assert not started


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if vLLM were installed: what is passed on to it is put together without it."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name == "vllm" or find(name, *rest))


def value(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(f"--{option}") + 1]


@pytest.mark.usefixtures("there")
def test_it_listens_to_this_machine_alone_unless_it_is_told_otherwise(
    icl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(serve.os, "execve", lambda program, words, environment: started.append((words, environment)))
    told = icl("serve", "tiny", "--port", "18273")
    assert told.status == 0
    assert "model 'tiny' at http://127.0.0.1:18273/v1, once it is loaded" in " ".join(told.err.split())
    ((words, environment),) = started
    assert value(words, "host") == "127.0.0.1"
    assert value(words, "port") == "18273"
    assert value(words, "scheduler-cls").endswith("LockstepScheduler")
    assert "VLLM_API_KEY" not in environment


@pytest.mark.usefixtures("there")
def test_a_key_is_handed_on_by_the_environment_and_stands_in_no_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "a secret of mine")
    arguments, environment = serve.server("tiny", "0.0.0.0", 8000, api_key_env="MY_KEY")
    assert value(arguments, "host") == "0.0.0.0"
    assert environment["VLLM_API_KEY"] == "a secret of mine"
    assert not any("secret" in word for word in arguments)
    for way in ("host=0.0.0.0", "--host=0.0.0.0"):  # not past the check
        with pytest.raises(ConfigError, match=r"--option host.* is set by icl serve itself"):
            serve.server("tiny", "127.0.0.1", 8000, options=[way])


def test_without_vllm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "vllm" else find(name, *rest))
    with pytest.raises(ConfigError, match=r"needs the package vllm, .*pip install -e '\.\[vllm\]'"):
        serve.server("tiny", "127.0.0.1", 8000)


@pytest.mark.usefixtures("there")
def test_a_port_that_is_taken_is_told_before_a_model_is_loaded(icl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(serve.os, "execve", lambda *arguments: started.append(arguments))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        told = icl("serve", "tiny", "--port", str(port))
    assert told.status == 2
    assert f"--port {port}: nothing can listen there on 127.0.0.1" in " ".join(told.err.split())
    assert icl("serve", "tiny", "--port", "70000").status == 2
    assert not started
    assert icl("serve", "tiny", "--port", str(port)).status == 0


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("way", ["hos=0.0.0.0", "--ho=0.0.0.0", "middlewar=os:system", "=x", "scheduler_c=X"])
def test_the_beginning_of_an_options_name_is_that_option(way: str) -> None:
    with pytest.raises(ConfigError, match=r"--option .* is set by icl serve itself"):
        serve.server("tiny", "127.0.0.1", 8000, options=[way])


@pytest.mark.usefixtures("there")
def test_images_are_fetched_from_the_hosts_that_are_named_alone() -> None:
    assert "none" in value(serve.server("tiny", "127.0.0.1", 8000)[0], "allowed-media-domains")
    options = ["allowed-media-domains=images.example", "shutdown-timeout=0"]
    arguments, environment = serve.server("tiny", "127.0.0.1", 8000, options=options)
    assert value(arguments, "allowed-media-domains") == "images.example"
    assert value(arguments, "shutdown-timeout") == "0"
    assert int(environment["VLLM_MAX_IMAGE_PIXELS"]) <= 100_000_000


@pytest.mark.usefixtures("there")
@pytest.mark.skipif(VLLM().device_type != "cpu", reason="of a machine without a GPU")
def test_without_a_gpu_it_takes_two_gib_of_the_memory_unless_it_is_told_otherwise() -> None:
    arguments, _ = serve.server("tiny", "127.0.0.1", 8000)
    assert value(arguments, "kv-cache-memory-bytes") == str(2 * 2**30)
    arguments, _ = serve.server("tiny", "127.0.0.1", 8000, options=["kv-cache-memory-bytes=1000"])
    assert value(arguments, "kv-cache-memory-bytes") == "1000"
    arguments, _ = serve.server("tiny", "127.0.0.1", 8000, options=["--gpu_memory_utilization=0.5"])
    assert "--kv-cache-memory-bytes" not in arguments
