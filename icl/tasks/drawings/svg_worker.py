"""A process that renders SVGs: one line of JSON in, one line of JSON out.

An SVG is a program of its author: its size, filters and depth can end or stop the renderer, and it can name files.
Therefore this process ends itself when a drawing takes longer than SECONDS, its memory is limited, and it cannot open a
file: after its imports, no further file descriptor is allowed.

    in     {"svg": "<svg ...", "width": 512, "dpi": 96}
    out    {"png": base64} or {"error": reason}
"""

import base64
from typing import Any
from xml.etree import ElementTree

from icl.limited_process import serve

SECONDS = 10
"""Time of one drawing. Nearly all take less than .1 s."""
BYTES = 2**30
"""Address space of the process."""
IMAGE_ELEMENTS = ("image", "feImage")
NO_FILE = ("data:", "#")
"""The beginnings of an address of an image that is in the drawing itself."""


def render(request: dict[str, Any]) -> dict[str, str]:
    """The answer to one request."""
    from resvg_py import svg_to_bytes

    try:
        if _names_a_file(ElementTree.fromstring(request["svg"])):
            return {"error": "shows a file that is missing"}
    except (ElementTree.ParseError, ValueError):  # the renderer decides; it can open no file
        pass
    try:
        png = bytes(
            svg_to_bytes(svg_string=request["svg"], width=request["width"], dpi=request["dpi"], skip_system_fonts=True)
        )
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
    """Answers requests until the input ends. One drawing before it imports what needs open files."""
    render({"svg": '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "width": 9, "dpi": 96})
    serve(render, SECONDS, BYTES, opens_files=False)


if __name__ == "__main__":
    main()
