"""The processes that computed samples of a run, with the environment of each.

`invocations.jsonl` has one line per process: `icl run`, or one worker of a launch. Lines are only appended. A line is
on the disk before the process writes a sample, and each sample has the number of its line's `id`. `trace_decimals` is
the precision of the traces of these samples (`decoding.engine.trace_precision`).
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from decoding.engine.trace_precision import TRACE_DECIMALS
from experiments.store.json_shapes import InvocationShape, check_shape
from experiments.store.store import Store, truncate_partial_line
from icl import StoreError, filelock, parse_json_object

REMEDY = "Restore the file from a copy, or remove it: samples are still valid without it."

LOCK_TIMEOUT = 60.0
"""Seconds that a worker waits while others write their lines."""


@dataclass(frozen=True)
class Invocation:
    """One process that computes samples of a run. Its line is written when `id` is first read.

    Attributes:
        environment: What the line says instead of the environment of this process: the environment of imported samples.
    """

    store: Store
    worker: str = "0"
    environment: Mapping[str, Any] | None = None

    @cached_property
    def id(self) -> int:
        """The number of the process, from 1. Raises StoreError if the line cannot be written."""
        path = invocations_file(self.store)
        process = {"start": now(), "worker": self.worker, "process": os.getpid(), "trace_decimals": TRACE_DECIMALS}
        content = process | dict(collect_environment() if self.environment is None else self.environment)
        try:
            with filelock.FileLock(path.with_name(".invocations.lock"), timeout=LOCK_TIMEOUT):
                truncate_partial_line(path, _is_complete)
                number = max(read_invocations(self.store) or _in_samples(self.store), default=0) + 1
                with path.open("ab") as file:
                    file.write(json.dumps({"id": number, **content}, ensure_ascii=False).encode() + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
        except filelock.Timeout as error:
            raise StoreError(
                f"{path} has been locked by another worker for {LOCK_TIMEOUT:.0f} s. Start this one again."
            ) from error
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror or error}.") from error
        return number


def invocations_file(store: Store) -> Path:
    """The file of all lines."""
    return store.folder / "invocations.jsonl"


def read_invocations(store: Store) -> dict[int, Mapping[str, Any]]:
    """The line of each process by its number. A partial last line is skipped: no sample has its number.

    Raises:
        StoreError: A line is damaged. The message names the line and the key.
    """
    path = invocations_file(store)
    if path.exists() and not path.is_file():
        raise StoreError(f"{path} cannot be read: it is not a file.")
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}.") from error
    invocations: dict[int, Mapping[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        where = f"line {number} of {path}"
        try:
            content = parse_json_object(line)
        except ValueError as error:
            raise StoreError(f"{where} is damaged ({error}). {REMEDY}") from error
        check_shape(InvocationShape, content, where, REMEDY)
        invocations[int(content["id"])] = content
    return invocations


def run_day(store: Store) -> date:
    """The date on which the first process of a run started; today's if none has. Raises StoreError.

    Chat templates may write the date into prompts, so that a run which goes on tomorrow must write the first one.
    """
    first: Mapping[str, Any] = next(iter(read_invocations(store).values()), {})
    return date.fromisoformat(str(first.get("start") or now())[:10])


def _in_samples(store: Store) -> set[int]:
    """The numbers in samples, which a new line must not repeat if the file was removed."""
    digests = [path.name for path in store.folder.glob("cells/*")]
    return {line.get("invocation", 0) for digest in digests for line in store.lines(digest)}


def _is_complete(line: bytes) -> bool:
    try:
        return bool(parse_json_object(line))
    except ValueError:
        return False


def describe_probe(record: Mapping[str, Any]) -> str:
    """A sentence on what a probe said of a model's server (`Model.probe_server`)."""
    undecided = record.get("open") or {}
    result = f"no fault was found; it cannot tell about {', '.join(undecided)}" if undecided else "it reads every image"
    return f"The server {record.get('url')} ({record.get('model')}) was probed at {record.get('date')}: {result}."


TIMEOUT = 10.0
"""Seconds that git or the driver may take."""


def now() -> str:
    """Local time with its offset, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def collect_environment() -> dict[str, Any]:
    """The environment as JSON.

    Returns:
        `versions` of Python and of every installed package, `devices` with `driver`, `git` of the working directory
        and of the toolkit if it is a checkout, and `machine`.
    """
    toolkit = Path(__file__).parents[2]
    tracked = _output("git", "-C", str(toolkit), "ls-files", "--", "icl/version.py")
    return {
        "versions": {"python": platform.python_version(), **_packages()},
        **_devices(),
        "git": {"working_directory": _commit(Path.cwd()), "toolkit": _commit(toolkit) if tracked else None},
        "machine": {"name": platform.node(), "system": platform.platform(), "cpus": os.cpu_count()},
    }


def _packages() -> dict[str, str]:
    """Name -> version. Only the first lines of a package's metadata are read: it may contain a whole README."""
    packages: list[tuple[str, str]] = []
    for package in distributions():
        text = package.read_text("METADATA") or package.read_text("PKG-INFO") or ""
        fields = {name: _field(name, text) for name in ("Name", "Version")}
        if fields["Name"]:
            packages.append((fields["Name"].lower(), fields["Version"]))
    return dict(sorted(packages))


def _field(name: str, metadata: str) -> str:
    """The value of a field in the headers of a package's metadata; '' without it."""
    match = re.search(rf"^{name}:[ \t]*(.*)$", metadata.partition("\n\n")[0], re.MULTILINE)
    return match[1].strip() if match else ""


def _devices() -> dict[str, Any]:
    """The GPUs that the driver lists, the driver's version, and the GPUs that the process may use."""
    query = ("--query-gpu=name,driver_version", "--format=csv,noheader")
    rows = [row.split(", ") for row in (_output("nvidia-smi", *query) or "").splitlines()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {
        "devices": [name for name, *_ in rows],
        "driver": next((driver[0] for _, *driver in rows if driver), None),
        **({"visible_devices": visible} if visible is not None else {}),
    }


def _commit(folder: Path) -> dict[str, str] | None:
    """The commit of a folder, and a digest of what tracked files have changed since; '' if nothing."""
    git = ("git", "-C", str(folder))
    commit, changes = _output(*git, "rev-parse", "HEAD"), _output(*git, "diff", "HEAD", "--no-ext-diff", "--binary")
    if commit is None or changes is None:
        return None
    return {"commit": commit, "dirty": hashlib.sha256(changes.encode()).hexdigest()[:12] if changes else ""}


def _output(*command: str) -> str | None:
    """The output of a command, or None if there is no such program or it fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()
