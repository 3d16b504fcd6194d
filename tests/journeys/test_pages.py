"""The Python of the README and of every page, pasted into files and a script and run as it stands."""

import re
from pathlib import Path

import pytest
from journeys.journey import ROOT, call
from PIL import Image

CHECKPOINT = ROOT / "icl" / "models" / "tiny" / "checkpoints" / "vlm"
DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
GENERATED = ("docs/components/", "docs/notebooks/", "docs/project/", "docs/reference/")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (\w+)\.py\n")
OF_OTHER_HARNESSES = "docs/harnesses.md"
"""Its Python belongs into programs of inspect_ai and VLMEvalKit."""


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


PAGES = [page for page in DOCS if blocks(page) and not page.startswith((*GENERATED, OF_OTHER_HARNESSES))]


PREPARED = {"docs/backends.md": ("icl", "export", "custom_generate", "{name: icd, alpha: 0.5}", "--to", "icd")}
"""The command of the page that comes before its Python."""
EXPECTED = {
    "docs/backends.md": r"\w",
    "docs/gallery/few_shot_with_images.md": "5 images",
    "docs/gallery/vcd_on_my_model.md": r"greedy (yes|no)\nvcd\(alpha=0.5\) (yes|no)\n",
}
"""What a page prints."""


def paste(page: str, folder: Path) -> str:
    """Writes the files of a page, and returns a script of its other blocks."""
    lines = []
    for text in blocks(page):
        if match := FILE.match(text):
            (folder / f"{match[1]}.py").write_text(text, encoding="utf-8")
            lines.append(f"import {match[1]}\n")
        else:
            lines.append(text)
    return "".join(lines)


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs_as_a_script(page: str, tmp_path: Path) -> None:
    for source in ("README.md", "docs/extending.md"):
        paste(source, tmp_path)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photo.jpg")
    if page in PREPARED:
        call(tmp_path, *PREPARED[page])
    script = paste(page, tmp_path).replace('"llava-hf/llava-1.5-7b-hf"', repr(str(CHECKPOINT)))  # the one at hand
    (tmp_path / "page.py").write_text(script, encoding="utf-8")
    assert re.search(EXPECTED.get(page, ""), call(tmp_path, "python", "page.py"))
