"""Serve a checkpoint over HTTP, with every strategy: vLLM's OpenAI-compatible server and the plug-in."""

import json
import os
import secrets
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icl.errors import ConfigError

if TYPE_CHECKING:
    from icl.models.vllm.model import VLLM

FREE = (
    *("dtype", "block-size", "mm-processor-cache-gb", "kv-cache-memory-bytes", "shutdown-timeout"),
    "allowed-media-domains",
)
"""Options that a user may set otherwise."""

NOWHERE = "none (icl serve --option allowed-media-domains=HOST)"
"""In place of the hosts that images may be fetched from: who reaches the server must not reach others through it."""

LAST = 30
"""Seconds that a server that is told to stop has to finish what it has begun."""

OWN = {
    "data-parallel": "Use --data-parallel-size, which starts engines on this machine and keeps a group in one of them",
    "enable-lora": "Use --adapter",
    "lora-modules": "Use --adapter",
    "max-lora": "It follows from --adapter",
    "api-server-count": "One process answers all requests, since it names the groups",
}
"""How options begin that are other options here, or none."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def command(  # noqa: PLR0917
    model: Annotated[str, typer.Argument(help="hub id, folder, or `tiny`: the checkpoint that comes with the toolkit")],
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port")] = 8000,
    name: Annotated[str, typer.Option(help="what clients call the model; default: as it is named here")] = "",
    api_key_env: Annotated[str, typer.Option(help="environment variable with the key that clients send")] = "",
    max_images: Annotated[int, typer.Option(help="images that a prompt may have")] = 64,
    patience: Annotated[float, typer.Option(help="seconds that a group waits for a branch")] = 60.0,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="folder of a LoRA of peft, as name=DIR or DIR: clients ask for it by its name as the model"),
    ] = None,
    merge: Annotated[
        bool, typer.Option(help="put the one --adapter into the weights; it is then the only model that is served")
    ] = False,
    data_parallel_size: Annotated[int, typer.Option(min=1, help="engines side by side; a group runs whole in one")] = 1,
    option: Annotated[
        list[str] | None, typer.Option(help="any option of vLLM's server, such as max-num-seqs=16")
    ] = None,
) -> None:
    """A chat request with `vllm_xargs: {strategy: vcd, alpha: 1.0}` is decoded by that strategy, in one answer.

    Everything else is vLLM's: /health, /metrics, streaming, graceful stop.
    """
    arguments, environment = server(
        model,
        host,
        port,
        name=name,
        api_key_env=api_key_env,
        max_images=max_images,
        patience=patience,
        adapters=adapter,
        merge=merge,
        data_parallel_size=data_parallel_size,
        options=option,
    )
    check_free(host, port)
    at = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    called = arguments[arguments.index("--served-model-name") + 1]
    typer.echo(
        f"serving      model '{called}' at {at}, once it is loaded, which takes a minute or more: the line "
        "'Application startup complete' says when. Ctrl-C ends it.",
        err=True,
    )
    os.execve(sys.executable, [sys.executable, *arguments], environment)


def check_free(host: str, port: int) -> None:
    """Raises ConfigError where nothing can listen there, before a model is loaded."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, number) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        raise ConfigError(
            f"--port {port}: nothing can listen there on {host} ({error.strerror}). Stop what does, or name another."
        ) from error


def server(
    model: str,
    host: str,
    port: int,
    *,
    name: str = "",
    api_key_env: str = "",
    max_images: int = 64,
    patience: float = 60.0,
    adapters: list[str] | None = None,
    merge: bool = False,
    data_parallel_size: int = 1,
    options: list[str] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Arguments of Python and the environment of a server. Raises ConfigError, ModelError."""
    from importlib.util import find_spec

    from icl.models.vllm.engine import CPU_ENVIRONMENT, ENVIRONMENT, INSTALL_HINT, PLUGIN_ARGS
    from icl.models.vllm.model import CPU_CACHE_GIB, GIB, VLLM

    key = os.environ.get(api_key_env, "") if api_key_env else ""
    if api_key_env and not key:
        raise ConfigError(f"--api-key-env: the environment variable {api_key_env} is not set.")
    if host not in LOOPBACK and not key:
        raise ConfigError(
            f"--host {host} lets others reach the server, and it has no key. Put one into an environment variable and "
            "name it with --api-key-env, or leave --host out."
        )
    if find_spec("vllm") is None:
        raise ConfigError(f"icl serve needs the package vllm, which is not installed here. {INSTALL_HINT}")
    from decoding.lockstep.request_metadata import SECRET_VARIABLE
    from icl.images import MAX_PIXELS

    engine, called, beside = VLLM(model), name or model, adapters or []
    if merge:
        engine, alone = _merged(model, beside)
        called, beside = name or alone, []
    cpu = engine.device_type == "cpu"
    given = {
        "model": engine.weights(),
        "served-model-name": called,
        "host": host,
        "port": str(port),
        "scheduler-cls": PLUGIN_ARGS["scheduler_cls"],
        "logits-processors": PLUGIN_ARGS["logits_processors"][0],
        "worker-extension-cls": PLUGIN_ARGS["worker_extension_cls"],
        "middleware": "decoding.server.serving.StrategyMiddleware",
        "limit-mm-per-prompt": json.dumps({"image": max_images, "video": 0}),
        "mm-processor-cache-gb": "0",  # with it, a request that is refused breaks the next one with its image
        "additional-config": json.dumps({"lockstep_patience": patience}),
        "shutdown-timeout": str(LAST),
        "allowed-media-domains": NOWHERE,
    }
    if cpu:
        given |= {"dtype": engine.precision, "block-size": str(engine.block_size)}
        if not any(one.lstrip("-").replace("_", "-").startswith("gpu-memory") for one in options or []):
            given["kv-cache-memory-bytes"] = str(round(CPU_CACHE_GIB * GIB))
    if data_parallel_size > 1:
        given["data-parallel-size"] = str(data_parallel_size)
    lora = _adapters(beside, engine, called)
    flags = ["--no-async-scheduling", "--no-mm-device-do-normalize", *(["--enforce-eager"] if cpu else []), *lora]
    flags += _options(options or [], given)
    arguments = ["-m", "decoding.server"]
    for option, value in given.items():
        arguments += [f"--{option}", str(value)]
    environment = (
        ENVIRONMENT | {"VLLM_MAX_IMAGE_PIXELS": str(MAX_PIXELS)} | (CPU_ENVIRONMENT if cpu else {}) | os.environ
    )
    environment |= {SECRET_VARIABLE: secrets.token_hex(8), "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "0"  # one that comes later is checked by nobody
    if key:
        environment["VLLM_API_KEY"] = key
    return [*arguments, *flags], environment


def _options(told: list[str], given: dict[str, str]) -> list[str]:
    """Those with a value enter `given`, the others are returned as flags. Raises ConfigError."""
    flags = []
    for one in told:
        name, _, value = one.partition("=")
        name = name.lstrip("-").replace("_", "-")
        if instead := next((why for start, why in OWN.items() if name.startswith(start)), None):
            raise ConfigError(f"--option {name} is not for here. {instead}.")
        taken = [key for key in given if key.startswith(name)]  # vLLM takes the beginning of a name for the name
        if taken and name not in FREE:
            raise ConfigError(f"--option {name} is set by icl serve itself.")
        if value:
            given[name] = value
        else:
            flags.append(f"--{name}")
    return flags


def _merged(model: str, told: list[str]) -> tuple["VLLM", str]:
    """The model with an adapter in its weights, and the adapter's name. Raises ConfigError, ModelError."""
    from icl.models.hf.adapter import LoraAdapter
    from icl.models.vllm.model import VLLM

    if len(told) != 1:
        raise ConfigError(f"--merge: one --adapter goes into the weights, and {len(told) or 'none'} is given.")
    name, folder = _named(told[0])
    return VLLM(model, adapter=str(LoraAdapter(folder, "--adapter").folder), merge=True), name


def _named(told: str) -> tuple[str, str]:
    """Name and folder of an adapter. Raises ConfigError."""
    before, sign, after = told.partition("=")
    name, folder = (before, after) if sign else (Path(told).name, told)
    if not name or not folder:
        raise ConfigError(f"--adapter {told}: give it as name=DIR.")
    return name, folder


def _adapters(told: list[str], engine: "VLLM", served: str) -> list[str]:
    """Arguments for adapters, each of which is of this model. Raises ConfigError, ModelError."""
    if not told:
        return []
    from icl.models.hf.adapter import LoraAdapter
    from icl.models.vllm import lora

    modules: dict[str, str] = {}
    ranks = []
    for one in told:
        name, folder = _named(one)
        if name == served or name in modules:
            raise ConfigError(f"--adapter {one}: '{name}' names something else here already. Give it as other=DIR.")
        adapter = LoraAdapter(folder, "--adapter")
        lora.check(adapter, engine.hf)
        ranks.append(lora.arguments(adapter)["max_lora_rank"])
        modules[name] = json.dumps({"name": name, "path": str(adapter.folder.absolute())})
    # Beside one with an adapter, vLLM on a CPU gives a request without one the last slot's (index -1): it stays empty.
    slots = len(modules) + (engine.device_type == "cpu")
    room = ["--max-loras", str(slots), "--max-lora-rank", str(max(ranks))]
    return ["--enable-lora", *room, "--lora-modules", *modules.values()]
