"""Runs the checks on a server, and shows what they found."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import httpx2

from .checks import CHECKS, Check
from .distances import FLOOR
from .instrument import Instrument, Status, Verdict
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
