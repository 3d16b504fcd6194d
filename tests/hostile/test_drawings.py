"""SVGs of a stranger crash the renderer, never end, or show files. Other drawings are still rendered."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image as PILImage

from icl.tasks.drawings import svg_worker
from icl.tasks.drawings.install import UnusableDrawingError, render

pytest.importorskip("resvg_py", reason="renders the SVGs of the test")
NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
FRAME = f'<svg {NAMESPACES} width="100" height="100">{{}}</svg>'
SQUARE = '<rect width="50" height="50" fill="blue"/>'
BOMB = "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
HOSTILE = {
    "abort": ('<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1000000"><path d="M0 0h1v9z"/></svg>', "ends"),
    "deep": (FRAME.format("<g>" * 100_000 + SQUARE + "</g>" * 100_000), "ends"),
    "entities": (
        f'<!DOCTYPE svg [<!ENTITY a "xxxxxxxxxx">{BOMB}]>' + FRAME.format('<text y="50">&j;</text>'),
        "unread",
    ),
    "file": (FRAME.format('<image xlink:href="SECRET" width="100" height="100"/>'), "shows a file"),
    "file_uri": (FRAME.format("<image\nhref='file://SECRET' width='100' height='100'/>"), "shows a file"),
    "file_in_entity": (
        '<!DOCTYPE svg [<!ENTITY x "SECRET">]>' + FRAME.format('<image href="&x;" width="100" height="100"/>'),
        "shows a file",
    ),
    "file_in_filter": (
        FRAME.format('<filter id="f"><feImage href="SECRET"/></filter><g filter="url(#f)">' + SQUARE + "</g>"),
        "shows a file",
    ),
    "address": (FRAME.format('<image href="http://127.0.0.1:9/x.png" width="100" height="100"/>'), "shows a file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_drawing_is_left_out_and_the_next_one_is_rendered(name: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    PILImage.new("RGB", (100, 100), (255, 0, 0)).save(secret)
    text, reason = HOSTILE[name]
    with pytest.raises(UnusableDrawingError, match=reason):
        render("x.svg", text.replace("SECRET", str(secret)).encode())
    assert render("y.svg", FRAME.format(SQUARE).encode()).getpixel((128, 128)) == (0, 0, 255)


def test_an_image_inside_a_drawing_is_rendered() -> None:
    buffer = io.BytesIO()
    PILImage.new("RGB", (4, 4), (255, 0, 0)).save(buffer, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    image = render("x.svg", FRAME.format(f'<image href="{uri}" width="100" height="100"/>').encode())
    assert image.getpixel((128, 128)) == (255, 0, 0)


def test_a_drawing_that_does_not_end_is_left_out() -> None:
    """The worker with a limit of one second."""
    endless = FRAME.format(
        '<filter id="f"><feTurbulence numOctaves="1000000" baseFrequency="0.5"/></filter>'
        '<rect width="90" height="90" filter="url(#f)"/>'
    )
    code = "from icl.tasks.drawings import svg_worker as worker\nworker.SECONDS = 1\nworker.main()\n"
    request = json.dumps({"svg": endless, "width": 512, "dpi": 96}) + "\n"
    done = subprocess.run([sys.executable, "-c", code], input=request, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (1, ["ready"])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_the_renderer_cannot_open_a_file() -> None:
    code = (
        "import os; from icl.limited_process import _limit\n"
        "_limit(2**30, os.open(os.devnull, os.O_RDONLY) + 1)\n"
        f"open({str(Path(svg_worker.__file__))!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Too many open files" in done.stderr
