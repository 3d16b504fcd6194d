"""Serve a checkpoint over HTTP with all strategies, by the OpenAI-compatible server of vLLM."""

import json
import os
import secrets
import socket
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icl import ConfigError

if TYPE_CHECKING:
    from icl.models.vllm.model import VLLM

OVERRIDABLE = (
    *("dtype", "block-size", "mm-processor-cache-gb", "kv-cache-memory-bytes", "shutdown-timeout"),
    "allowed-media-domains",
)
"""Options that the command sets and a user may change."""

NO_MEDIA_DOMAINS = "none (icl serve --option allowed-media-domains=HOST)"
"""In place of the hosts that images may be fetched from. A client must not reach other hosts through the server."""

SHUTDOWN_SECONDS = 30
"""Time that a server has to finish its requests when it is stopped."""

REPLACED_OPTIONS = {
    "data-parallel": "Use --data-parallel-size, which starts engines on this machine and keeps a group in one of them",
    "enable-lora": "Use --adapter",
    "lora-modules": "Use --adapter",
    "max-lora": "It follows from --adapter",
    "api-server-count": "One process answers all requests, since it names the groups",
}
"""Start of the names of vLLM options that are not available -> what to do instead."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def command(  # noqa: PLR0917
    model: Annotated[str, typer.Argument(help="hub id, folder, or `tiny`: the checkpoint that comes with the toolkit")],
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port")] = 8000,
    name: Annotated[str, typer.Option(help="model name for clients; default: MODEL")] = "",
    strategy_models: Annotated[
        list[str] | None,
        typer.Option("--as", help="another model name that is decoded by a strategy, as NAME=STRATEGY; repeatable"),
    ] = None,
    api_key_env: Annotated[str, typer.Option(help="environment variable with the key that clients send")] = "",
    max_images: Annotated[int, typer.Option(help="maximum number of images in a prompt")] = 64,
    patience: Annotated[float, typer.Option(help="seconds that a group waits for missing branches")] = 60.0,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="folder of a peft LoRA, as name=DIR or DIR; clients select it by its name as the model"),
    ] = None,
    merge: Annotated[
        bool, typer.Option(help="merge the only --adapter into the weights, and serve no other model")
    ] = False,
    data_parallel_size: Annotated[
        int, typer.Option(min=1, help="number of engines; a group runs whole in one of them")
    ] = 1,
    option: Annotated[
        list[str] | None, typer.Option(help="any option of vLLM's server, such as max-num-seqs=16")
    ] = None,
) -> None:
    """Serves a model: a chat request with `vllm_xargs: {strategy: vcd, alpha: 1.0}` is decoded by that strategy.

    With `--as tiny-vcd=vcd` the same model has a second name, under which every chat request is decoded by vcd: for
    clients that cannot send `vllm_xargs`.

    Everything else is vLLM's: /health, /metrics, streaming, graceful stop.
    """
    arguments, environment = server(
        model,
        host,
        port,
        name=name,
        strategy_models=strategy_models,
        api_key_env=api_key_env,
        max_images=max_images,
        patience=patience,
        adapters=adapter,
        merge=merge,
        data_parallel_size=data_parallel_size,
        options=option,
    )
    check_free(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    served_name = arguments[arguments.index("--served-model-name") + 1]
    typer.echo(
        f"serving      model '{served_name}' at {url}, once it is loaded, which takes a minute or more: the line "
        "'Application startup complete' says when. Ctrl-C ends it.",
        err=True,
    )
    os.execve(sys.executable, [sys.executable, *arguments], environment)


def check_free(host: str, port: int) -> None:
    """Raises ConfigError if the address is not free, before a model is loaded."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, number) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        raise ConfigError(
            f"--port {port}: the port cannot be opened on {host} ({error.strerror}). Stop the process that uses "
            "it, or choose another port."
        ) from error


def server(
    model: str,
    host: str,
    port: int,
    *,
    name: str = "",
    strategy_models: list[str] | None = None,
    api_key_env: str = "",
    max_images: int = 64,
    patience: float = 60.0,
    adapters: list[str] | None = None,
    merge: bool = False,
    data_parallel_size: int = 1,
    options: list[str] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Python arguments and environment of a server process. Raises ConfigError, ModelError."""
    from importlib.util import find_spec

    from icl.models.vllm.engine import CPU_ENVIRONMENT, ENVIRONMENT, INSTALL_HINT, PLUGIN_ARGS, SCHEDULERS
    from icl.models.vllm.model import CPU_CACHE_GIB, GIB, VLLM

    key = os.environ.get(api_key_env, "") if api_key_env else ""
    if api_key_env and not key:
        raise ConfigError(f"--api-key-env: the environment variable {api_key_env} is not set.")
    if host not in LOOPBACK and not key:
        raise ConfigError(
            f"--host {host} exposes the server to other machines, but it has no key. Set an environment variable to "
            "a key and pass its name as --api-key-env, or remove --host."
        )
    if find_spec("vllm") is None:
        raise ConfigError(f"icl serve needs the package vllm, which is not installed here. {INSTALL_HINT}")
    from decoding.lockstep.request_metadata import SECRET_VARIABLE
    from decoding.server.request_parsing import CONFIG_KEY
    from icl.images import MAX_PIXELS

    engine, served_name, separate_adapters = VLLM(model), name or model, adapters or []
    if merge:
        engine, adapter_name = _merged(model, separate_adapters)
        served_name, separate_adapters = name or adapter_name, []
    nodes = _strategy_models(strategy_models or [], served_name)
    cpu = engine.device_type == "cpu"
    is_async = not cpu and "no-async-scheduling" not in [text.lstrip("-").replace("_", "-") for text in options or []]
    values = {
        "model": engine.weights(),
        "served-model-name": served_name,
        "host": host,
        "port": str(port),
        "scheduler-cls": SCHEDULERS[is_async],
        "logits-processors": PLUGIN_ARGS["logits_processors"][0],
        "worker-extension-cls": PLUGIN_ARGS["worker_extension_cls"],
        "middleware": "decoding.server.serving.StrategyMiddleware",
        "limit-mm-per-prompt": json.dumps({"image": max_images, "video": 0}),
        "mm-processor-cache-gb": "0",  # with it, a refused request breaks the next one with its image
        "additional-config": json.dumps({"lockstep_patience": patience} | ({CONFIG_KEY: nodes} if nodes else {})),
        "shutdown-timeout": str(SHUTDOWN_SECONDS),
        "allowed-media-domains": NO_MEDIA_DOMAINS,
    }
    if cpu:
        values |= {"dtype": engine.precision, "block-size": str(engine.block_size)}
        if not any(text.lstrip("-").replace("_", "-").startswith("gpu-memory") for text in options or []):
            values["kv-cache-memory-bytes"] = str(round(CPU_CACHE_GIB * GIB))
    if data_parallel_size > 1:
        values["data-parallel-size"] = str(data_parallel_size)
    lora = _adapters(separate_adapters, engine, (served_name, *nodes))
    flags = ["--async-scheduling" if is_async else "--no-async-scheduling"]
    flags += ["--no-mm-device-do-normalize", *(["--enforce-eager"] if cpu else []), *lora]
    flags += _options(options or [], values)
    arguments = ["-m", "decoding.server"]
    for option, value in values.items():
        arguments += [f"--{option}", str(value), *(nodes if option == "served-model-name" else ())]
    environment = (
        ENVIRONMENT | {"VLLM_MAX_IMAGE_PIXELS": str(MAX_PIXELS)} | (CPU_ENVIRONMENT if cpu else {}) | os.environ
    )
    environment |= {SECRET_VARIABLE: secrets.token_hex(8), "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "0"  # an adapter that is added later would not be checked
    if key:
        environment["VLLM_API_KEY"] = key
    return [*arguments, *flags], environment


def _strategy_models(texts: list[str], served_name: str) -> dict[str, Any]:
    """Model name -> node of its strategy. Raises ConfigError."""
    from decoding.server.request_parsing import check_strategy_model
    from experiments.config.yaml_document import parse_yaml

    nodes: dict[str, Any] = {}
    for text in texts:
        name, _, written = text.partition("=")
        node, _ = parse_yaml(written, f"--as {name}")
        check_strategy_model(name, node)
        if name == served_name or name in nodes:
            raise ConfigError(f"--as {text}: '{name}' is already in use. Write another name.")
        nodes[name] = node
    return nodes


def _options(options: list[str], values: dict[str, str]) -> list[str]:
    """Adds options with a value to `values`, and returns the others as flags. Raises ConfigError."""
    flags = []
    for option in options:
        name, _, value = option.partition("=")
        name = name.lstrip("-").replace("_", "-")
        if instead := next((why for start, why in REPLACED_OPTIONS.items() if name.startswith(start)), None):
            raise ConfigError(f"--option {name} is not available. {instead}.")
        taken = [key for key in values if key.startswith(name)]  # vLLM accepts abbreviated names
        if taken and name not in OVERRIDABLE:
            raise ConfigError(f"--option {name} is set by icl serve itself.")
        if value:
            values[name] = value
        else:
            flags.append(f"--{name}")
    return flags


def _merged(model: str, adapters: list[str]) -> tuple["VLLM", str]:
    """The model with an adapter merged into its weights, and the adapter's name. Raises ConfigError, ModelError."""
    from icl.models.hf.adapter import LoraAdapter
    from icl.models.vllm.model import VLLM

    if len(adapters) != 1:
        raise ConfigError(f"--merge: one --adapter is merged into the weights, but there are {len(adapters)}.")
    name, folder = _name_and_folder(adapters[0])
    return VLLM(model, adapter=str(LoraAdapter(folder, "--adapter").folder), merge=True), name


def _name_and_folder(adapter: str) -> tuple[str, str]:
    """Name and folder of an adapter, which is written as name=DIR or DIR. Raises ConfigError."""
    before, sign, after = adapter.partition("=")
    name, folder = (before, after) if sign else (Path(adapter).name, adapter)
    if not name or not folder:
        raise ConfigError(f"--adapter {adapter}: write name=DIR.")
    return name, folder


def _adapters(adapters: list[str], engine: "VLLM", names: Collection[str]) -> list[str]:
    """Arguments for adapters of this model. Raises ConfigError, ModelError."""
    if not adapters:
        return []
    from icl.models.hf.adapter import LoraAdapter
    from icl.models.vllm import lora

    modules: dict[str, str] = {}
    ranks = []
    for text in adapters:
        name, folder = _name_and_folder(text)
        if name in names or name in modules:
            raise ConfigError(f"--adapter {text}: '{name}' is already in use. Write another name: other=DIR.")
        adapter = LoraAdapter(folder, "--adapter")
        lora.check(adapter, engine.hf)
        ranks.append(lora.arguments(adapter)["max_lora_rank"])
        modules[name] = json.dumps({"name": name, "path": str(adapter.folder.absolute())})
    # In a batch with adapters, vLLM on a CPU uses the last slot (index -1) for requests without one: it stays empty.
    slots = len(modules) + (engine.device_type == "cpu")
    room = ["--max-loras", str(slots), "--max-lora-rank", str(max(ranks))]
    return ["--enable-lora", *room, "--lora-modules", *modules.values()]
