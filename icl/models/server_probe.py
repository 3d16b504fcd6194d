"""Probes the server of a model before a run: whether it reads prompts of this shape as they are sent.

See `icl.probe`. A result is kept for a day, by server, model, version and checks.
"""

import ipaddress
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from icl import ModelError, Prompt, cache_folder, canonical_digest, parse_json_object, write_cache
from icl.probe.checks import CHECKS, Prompts
from icl.probe.instrument import Status
from icl.probe.run import VERSION, probe
from icl.probe.server import Server, UnusableServerError

DAY = 24 * 3600


def is_private(url: str) -> bool:
    """Whether an address is on this machine or in a private network, where a request costs nothing."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:  # a name
        return host == "localhost" or "." not in host


def checks_of(prompt: Prompt) -> tuple[str, ...]:
    """The checks that matter for prompts of this shape; none without images."""
    images = [sum(part.image is not None for part in turn.parts) for turn in prompt.turns]
    kinds = {
        Prompts.WITH_IMAGES: max(images) > 0,
        Prompts.WITH_SEVERAL_IN_ONE_TURN: max(images) > 1,
        Prompts.WITH_IMAGES_IN_TURNS: sum(count > 0 for count in images) > 1,
    }
    return tuple(check.name for check in CHECKS.values() if kinds.get(check.matters_for))


def probe_server(server: Server, prompt: Prompt) -> dict[str, Any] | None:
    """What the probe says of the server: date, status, and a sentence for each check that is not ok.

    None if prompts of this shape have no images.

    Raises:
        ModelError: The server has a fault that changes such prompts.
    """
    if not (checks := checks_of(prompt)):
        return None
    try:
        identity = server.connect()
        content = {"server": identity, "checks": checks, "extra": server.extra, "version": VERSION}
        path = cache_folder() / "probes" / f"{canonical_digest(content)[:32]}.json"
        if (record := _stored(path)) is None:
            record = _probe(server, checks)
            write_cache(path, record)
    except UnusableServerError as error:  # it answered the run's own prompt
        record = {"date": _now(), "status": str(Status.OPEN), "red": {}, "open": {"all": str(error)}}
    if red := record["red"]:
        name, text = next(iter(red.items()))
        more = f" (and {len(red) - 1} more)" if len(red) > 1 else ""
        raise ModelError(
            f"model.url: the server at {server.url} does not read prompts as they are sent. {name}: {text}{more}. "
            f"`icl doctor server {server.url} {server.model}` shows all of it; `model.probe: false` runs without this "
            "check."
        )
    return {"url": server.url, "model": server.model, **record}


def _stored(path: Path) -> dict[str, Any] | None:
    try:
        record = parse_json_object(path.read_bytes())
        is_new = 0 <= time.time() - path.stat().st_mtime < DAY
    except (OSError, ValueError):  # none yet, or a damaged one: the server is probed again
        return None
    tables = [record.get(key) for key in ("red", "open")]
    is_whole = all(isinstance(one, dict) and all(map(_is_text, [*one, *one.values()])) for one in tables)
    return record if is_new and is_whole and _is_text(record.get("date")) else None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _probe(server: Server, checks: tuple[str, ...]) -> dict[str, Any]:
    result = probe(server, checks)

    def texts(status: Status) -> dict[str, str]:
        return {row.check: row.text for row in result.rows if row.status is status}

    return {"date": _now(), "status": str(result.status), "red": texts(Status.RED), "open": texts(Status.OPEN)}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
