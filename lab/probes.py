"""Probes correct servers, where each fault that `icl doctor server` names is a false alarm.

python -m lab.probes --work DIR
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer

from icl.errors import ICLError
from icl.probe.run import probe
from icl.probe.server import Server

TWINS = ("internvl3", "llava1_5", "qwen2_5_vl")
START_SECONDS = 600
VLLM = ("-m", "vllm.entrypoints.openai.api_server")
VLLM_OPTIONS = (
    *("--dtype", "float32", "--max-model-len", "4096", "--max-num-seqs", "16", "--enforce-eager"),
    # Prompts in one step: vLLM 0.32 on CPUs dies on a seeded request whose prompt is split ("CPU Generator does not
    # use offset").
    *("--max-num-batched-tokens", "16384"),
)
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
PLAIN_VLLM = {"VLLM_PLUGINS": "", "VLLM_CPU_KVCACHE_SPACE": "1"}


@dataclass(frozen=True)
class Kind:
    """A server program. `words` maps a model's folder and a port to the command after `python`."""

    name: str
    words: Callable[[str, int], tuple[str, ...]]
    environment: Mapping[str, str] = field(default_factory=dict)


def _vllm(*options: str) -> Callable[[str, int], tuple[str, ...]]:
    return lambda model, port: (
        *VLLM,
        "--model",
        model,
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
        *VLLM_OPTIONS,
        *options,
    )


KINDS = (
    Kind("vLLM with prefix caching", _vllm("--enable-prefix-caching"), PLAIN_VLLM),
    Kind("vLLM without prefix caching", _vllm("--no-enable-prefix-caching"), PLAIN_VLLM),
    Kind("icl serve", lambda model, port: ("-m", "icl", "serve", model, "--port", str(port))),
    Kind(
        "transformers serve",
        lambda model, port: (
            *("-m", "transformers.cli.transformers", "serve", model, "--port", str(port)),
            *("--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"),
        ),
    ),
)


@contextmanager
def started(python: Path, kind: Kind, model: str, log: Path) -> Iterator[str]:
    """The address of a server that runs until the end of the block.

    Raises:
        ICLError: The process ends, or does not answer within `START_SECONDS`.

    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as out:
        words = [str(python), *kind.words(model, port)]
        process = subprocess.Popen(words, stdout=out, stderr=out, env=os.environ | ENVIRONMENT | dict(kind.environment))
    try:
        for _ in range(START_SECONDS):
            if process.poll() is not None:
                raise ICLError(f"{kind.name} ended before it served {model}; see {log}")
            with suppress(httpx2.HTTPError):
                if httpx2.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                    break
            time.sleep(1)
        else:
            raise ICLError(f"{kind.name} did not serve {model} within {START_SECONDS} s; see {log}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def probe_kind(python: Path, kind: Kind, twin: str, work: Path) -> dict[str, Any]:
    """The row of one server and one twin; stored in `work`, so that running the command again continues."""
    from tests.random_models.twins.twin import save_twin

    stem = f"{kind.name.replace(' ', '_')}-{twin}"
    file = work / f"{stem}.json"
    if file.exists():
        row: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return row
    model = work / twin
    if not model.exists():
        save_twin(twin, model)
    with started(python, kind, str(model), work / f"{stem}.log") as url:
        result = probe(Server(url, str(model)))
    row = {
        "server": kind.name,
        "twin": twin,
        "compared": result.compared,
        "ok": [row.check for row in result.rows if row.status == "ok"],
        "faults": {row.check: row.text for row in result.rows if row.status == "RED"},
        "open": {row.check: row.text for row in result.rows if row.status == "cannot tell"},
        "requests": result.requests,
        "seconds": result.seconds,
    }
    file.write_text(json.dumps(row, indent=1), encoding="utf-8")
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a table of Markdown."""
    lines = [
        "| server | twin | compared by | ok | RED | cannot tell | requests | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        names = (", ".join(f"`{name}`" for name in row[key]) or "none" for key in ("faults", "open"))
        cells = (row["server"], row["twin"], row["compared"], len(row["ok"]), *names, row["requests"])
        lines.append(f"| {' | '.join(map(str, cells))} | {row['seconds']:.0f} |")
    return "\n".join(lines)


def main(
    twins: Annotated[list[str] | None, typer.Argument(help="names of twins", show_default=False)] = None,
    *,
    python: Annotated[Path, typer.Option(help="Python of an environment with vLLM")] = Path(".venv-vllm/bin/python"),
    work: Annotated[Path, typer.Option(help="folder for twins, logs and results")] = Path("probes"),
) -> None:
    """Starts each server with each twin, probes it, and prints a table."""
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for kind in KINDS:
        for twin in twins or TWINS:
            rows.append(probe_kind(python, kind, twin, work.resolve()))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    try:
        typer.run(main)
    except ICLError as error:
        sys.exit(str(error))
