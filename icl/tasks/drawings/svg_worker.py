"""A process that renders SVGs: one line of JSON in, one line of JSON out.

An SVG is a program of its author: its size, filters and depth can end or stop the renderer, and it can name files.
Therefore this process ends itself when a drawing takes longer than SECONDS, its memory is limited, and it cannot open a
file: after its imports, no further file descriptor is allowed.

    in     {"svg": "<svg ...", "width": 512, "dpi": 96}
    out    {"png": base64} or {"error": reason}
"""

import base64
import faulthandler
import json
import os
import signal
import sys
from typing import Any
from xml.etree import ElementTree

from icl.limited_process import READY

SECONDS = 10
"""Time of one drawing. Nearly all take less than .1 s."""
BYTES = 2**30
"""Address space of the process."""
IMAGE_ELEMENTS = ("image", "feImage")
NO_FILE = ("data:", "#")
"""The beginnings of an address of an image that is in the drawing itself."""


def render(svg: str, width: int, dpi: int) -> dict[str, str]:
    """The answer to one request."""
    from resvg_py import svg_to_bytes

    try:
        if _names_a_file(ElementTree.fromstring(svg)):
            return {"error": "shows a file that is missing"}
    except (ElementTree.ParseError, ValueError):  # the renderer decides; it can open no file
        pass
    try:
        png = bytes(svg_to_bytes(svg_string=svg, width=width, dpi=dpi, skip_system_fonts=True))
    except (ValueError, OSError, MemoryError):
        return {"error": "unreadable"}
    return {"png": base64.b64encode(png).decode()}


def _names_a_file(root: ElementTree.Element) -> bool:
    """Whether an image is outside the drawing."""
    for element in root.iter():
        if str(element.tag).rpartition("}")[2] in IMAGE_ELEMENTS:
            for name, value in element.attrib.items():
                if name.rpartition("}")[2] == "href" and value.strip() and not value.strip().startswith(NO_FILE):
                    return True
    return False


def main() -> None:
    """Answer requests until the input ends."""
    render('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><path d="M0 0h9v9z"/></svg>', 9, 96)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    answers.write(READY + "\n")
    answers.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):  # nobody reads the errors of a process that has started
        os.dup2(nowhere, stream.fileno())
    _limit(nowhere)
    for line in sys.stdin:
        faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.stderr)
        answer = render(**json.loads(line))
        faulthandler.cancel_dump_traceback_later()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _limit(last_descriptor: int) -> None:
    """Limit memory, and allow no file descriptor beyond those that are open."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limits: dict[Any, int] = {resource.RLIMIT_AS: BYTES, resource.RLIMIT_CORE: 0}
    limits[resource.RLIMIT_NOFILE] = last_descriptor + 1
    for limit, value in limits.items():
        _, hard = resource.getrlimit(limit)
        try:
            resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
        except (OSError, ValueError):  # macOS refuses limits below the size of its shared libraries
            continue


if __name__ == "__main__":
    main()
