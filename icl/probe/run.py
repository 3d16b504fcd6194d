"""Runs the checks on a server, and shows what they found."""

import argparse
import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from .distances import FLOOR
from .instrument import CHECKS, Check, Instrument, Prompts, Status, Verdict
from .server import MALFORMED, RefusedError, Server, UnusableServerError

MEANS = 8
"""Answers that are averaged when a check cannot tell on a noisy server."""
VERSION = 1
"""Changes with the checks, so that stored results of others are not reused."""


@dataclass(frozen=True)
class Row:
    """The result of one check. `curl` holds the commands that show a fault."""

    check: str
    status: Status
    claim: str
    text: str
    requests: int
    curl: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """What the probe found.

    Attributes:
        server: Identity of the server: address, model, its entry in the list of models, version.
        compared: "log-probabilities" or "texts".
        noise, signal, tolerance: In nats, or shares of texts.
    """

    server: dict[str, Any]
    compared: str
    noise: float
    signal: float
    tolerance: float
    requests: int
    seconds: float
    rows: tuple[Row, ...]

    @property
    def status(self) -> Status:
        """The worst: RED, cannot tell, or ok."""
        statuses = {row.status for row in self.rows}
        return next((status for status in (Status.RED, Status.OPEN) if status in statuses), Status.OK)

    @property
    def exit_status(self) -> int:
        """0 ok, 1 a fault, 2 no fault but a check that cannot tell."""
        return {Status.OK: 0, Status.RED: 1, Status.OPEN: 2}[self.status]

    @property
    def badge(self) -> str:
        """Markdown of a badge for a README."""
        red = self.count(Status.RED)
        message, color = {
            Status.OK: ("reads every image", "brightgreen"),
            Status.RED: (f"{red} fault{'s' * (red != 1)}", "red"),
            Status.OPEN: ("cannot tell", "yellow"),
        }[self.status]
        label = f"probe-{message}-{color}".replace(" ", "%20")
        return f"![probe: {message}](https://img.shields.io/badge/{label})"

    def count(self, status: Status) -> int:
        return sum(row.status is status for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        rows = [{**vars(row), "status": str(row.status), "curl": list(row.curl)} for row in self.rows]
        return {"version": VERSION, **vars(self), "status": str(self.status), "rows": rows}


def probe(
    server: Server,
    checks: Collection[str] | None = None,
    *,
    deep: bool = False,
    show: Callable[[Row], None] = lambda _: None,
) -> Result:
    """Runs checks on a server.

    Args:
        checks: Names of the checks to run; all but the deep ones by default.
        deep: Run the deep ones as well.
        show: Called with each row as soon as it is there.

    Raises:
        UnusableServerError: No request will be answered.
    """
    began = time.monotonic()
    identity = server.connect()
    once = Instrument(server)
    try:
        once.calibrate()
    except RefusedError as error:
        raise UnusableServerError(
            f"{server.url} refuses a prompt with three images, so it takes no few-shot prompts: {error}"
        ) from error
    chosen = [check for check in CHECKS.values() if (check.name in checks if checks else deep or not check.deep)]
    averaged: Instrument | None = None
    rows = []
    for check in chosen:
        before = server.requests
        verdict = _run(check, once)
        if verdict.status is Status.OPEN and not server.of_texts and once.scale.noise > FLOOR:
            if averaged is None:
                averaged = Instrument(server, MEANS)
                averaged.calibrate()
            verdict = _run(check, averaged)
            verdict = Verdict(verdict.status, f"{verdict.text} (means of {MEANS} answers)", verdict.witness)
        to_show = verdict.witness if verdict.status is Status.RED else ()
        curl = tuple(server.curl(prompt) for prompt in to_show)
        rows.append(Row(check.name, verdict.status, check.claim, verdict.text, server.requests - before, curl))
        show(rows[-1])
    scale = once.scale
    return Result(
        identity,
        "texts" if server.of_texts else "log-probabilities",
        scale.noise,
        scale.signal,
        scale.tolerance,
        server.requests,
        round(time.monotonic() - began, 1),
        tuple(rows),
    )


def _run(check: Check, instrument: Instrument) -> Verdict:
    try:
        return check.run(instrument)
    except RefusedError as error:
        return Verdict(Status.OPEN, f"refused: {error}")
    except httpx2.HTTPError as error:  # of a stream
        return Verdict(Status.OPEN, f"{type(error).__name__}: {error}")
    except (*MALFORMED, ArithmeticError) as error:
        return Verdict(Status.OPEN, f"the response is not of the protocol ({type(error).__name__}: {error})")


# The command line: `icl doctor server URL`, and `icl-probe URL` of the distribution with this package alone.


UNUSABLE = 3
LABEL_WIDTH = 24
"""Columns of status and name."""
SHOWN_FIRST = (Status.RED, Status.OPEN, Status.NOTE)


def main(words: Sequence[str] | None = None) -> int:
    """Reads the words of the command line and returns the exit status."""
    parser = argparse.ArgumentParser("icl-probe", description="Does this server read every image of a few-shot prompt?")
    parser.add_argument("url", help="base address of an OpenAI-compatible API")
    parser.add_argument("model", nargs="?", default="", help="name of the model; needed if the server has several")
    parser.add_argument("--only", default="", help="names of checks, separated by commas")
    parser.add_argument("--deep", action="store_true", help="600 requests more, for caches with short keys")
    parser.add_argument(
        "--texts", action="store_true", help="compare texts, as with a server without log-probabilities"
    )
    parser.add_argument("--key-env", default="", help="environment variable that holds the API key")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--curl", type=Path, help="write the requests that show each fault to this folder")
    parser.add_argument("--badge", action="store_true", help="print a line for a README")
    options = parser.parse_args(words)
    return run_command(**vars(options))


def run_command(
    url: str,
    model: str = "",
    *,
    only: str = "",
    deep: bool = False,
    texts: bool = False,
    key_env: str = "",
    json: Path | None = None,
    curl: Path | None = None,
    badge: bool = False,
) -> int:
    """Probes a server, prints a table and returns the exit status: 0 ok, 1 fault, 2 cannot tell, 3 no usable server."""
    names = [name for name in only.replace(" ", "").split(",") if name]
    key = os.environ.get(key_env, "").strip() if key_env else ""
    unknown = [name for name in names if name not in CHECKS] or ([only] if only and not names else [])
    unknown_text = f"no check is named {', '.join(unknown)}. There are: {', '.join(CHECKS)}" if unknown else ""
    if problem := unknown_text or _key_problem(key_env, key) or _path_problem(json, curl):
        print(f"error: {problem}", file=sys.stderr)
        return UNUSABLE
    server = Server(base_address(url), model, key or None, of_texts=texts)
    progress = sys.stderr.isatty()

    def show(row: Row) -> None:
        if progress:
            print(f"\r\033[K{row.check}: {row.status}", end="", file=sys.stderr, flush=True)

    try:
        result = probe(server, names, deep=deep, show=show)
    except UnusableServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    finally:
        if progress:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
    print(table(result))
    if json is not None:
        _write(json, _to_text(result))
    if curl is not None:
        for row in result.rows:
            if row.curl:
                _write(curl / f"{row.check}.sh", f"# {row.text}\n" + "\n\n".join(row.curl) + "\n")
    if badge:
        print(result.badge)
    return result.exit_status


def _key_problem(key_env: str, key: str) -> str:
    """What is wrong with a key, or ''."""
    if key_env and not key:
        return f"the environment variable {key_env}, which --key-env names, is not set"
    if not (key.isascii() and key.isprintable()):
        return f"the key in {key_env} has characters that no header takes"
    return ""


def _path_problem(json: Path | None, curl: Path | None) -> str:
    """Why files cannot be written, or ''. Makes their folders, since it would be too late after all requests."""
    try:
        if json is not None:
            json.parent.mkdir(parents=True, exist_ok=True)
            json.touch()
        if curl is not None:
            curl.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{error.filename} cannot be written: {error.strerror}"
    return "" if json is None or json.is_file() else f"{json} is no file"


def base_address(url: str) -> str:
    """The address with its scheme, and with /v1 if it has no path."""
    url = url if "://" in url else f"http://{url}"
    return url if url.split("://", 1)[1].strip("/").count("/") else f"{url.rstrip('/')}/v1"


def table(result: Result) -> str:
    """The result in words: faults first, and what is ok in one line."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    lines = []
    for status in SHOWN_FIRST:
        for row in result.rows:
            if row.status is status:
                lines += _row_lines(f"{row.status:<12}{row.check}", row.text, width)
    for status, label in ((Status.OK, "ok"), (Status.ABSENT, "not offered")):
        if names := [row.check for row in result.rows if row.status is status]:
            lines += _row_lines(f"{label:<12}{len(names)} checks", ", ".join(names), width)
    lines += ["", *textwrap.wrap(conclusion(result), width)]
    cost = f"{result.server['model']}: {result.requests} requests in {result.seconds:g} s."
    scale = f"Noise of {result.compared}: {result.noise:.2g}; another image changes {result.signal:.2g}."
    lines += textwrap.wrap(f"{cost} {scale}", width)
    return "\n".join(lines)


def conclusion(result: Result) -> str:
    """What the result means for few-shot prompts."""
    red = {row.check for row in result.rows if row.status is Status.RED}
    turns_read = any(row.check == "turns" and row.status is Status.OK for row in result.rows)
    touched = {CHECKS[name].matters_for for name in red}
    if touched == {Prompts.WITH_SEVERAL_IN_ONE_TURN} and turns_read:
        return "Several images in one message are not read as sent. Put each image into a turn of its own: this works."
    if touched - {Prompts.OTHER}:
        return "Few-shot prompts are not read as sent. --curl FOLDER writes the requests that show it."
    if red:
        return "Few-shot prompts are read as sent; the faults above do not touch them."
    if result.status is Status.OPEN:
        return (
            "No fault was found, but some checks cannot tell: the model does not react enough, or the server hides "
            "what they need. A server with log-probabilities tells more."
        )
    return "Few-shot prompts are read as sent."


def _row_lines(label: str, text: str, width: int) -> list[str]:
    hanging = " " * LABEL_WIDTH
    return textwrap.wrap(text, width, initial_indent=f"{label:<{LABEL_WIDTH}}", subsequent_indent=hanging)


def _to_text(result: Result) -> str:
    return json.dumps(result.to_json(), indent=1) + "\n"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
