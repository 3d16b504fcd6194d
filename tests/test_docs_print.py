"""A printed page of the documentation has A4 pages, and nothing that one clicks."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("furo", reason="the extra docs is not installed")
STYLE = Path(__file__).parents[1] / "docs" / "_static"
CONF = f"""
project = "toy"
extensions = ["myst_parser"]
html_theme = "furo"
html_static_path = [{str(STYLE)!r}]
html_css_files = ["site.css"]
"""


def test_a_printed_page_is_a4_and_has_no_links_for_screens(tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None or shutil.which("pdftotext") is None:
        pytest.skip("Chromium or poppler-utils is not installed")
    (tmp_path / "conf.py").write_text(CONF)
    (tmp_path / "index.md").write_text("# A page\n\n" + "Words of the page.\n\n" * 80)
    build = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(tmp_path), str(tmp_path / "site")]
    subprocess.run(build, check=True)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    pdf = tmp_path / "page.pdf"
    page = (tmp_path / "site" / "index.html").as_uri()
    subprocess.run([chromium, *options, f"--print-to-pdf={pdf}", page], check=True, capture_output=True, timeout=120)
    assert "(A4)" in subprocess.run(["pdfinfo", str(pdf)], check=True, capture_output=True, text=True).stdout
    text = subprocess.run(["pdftotext", str(pdf), "-"], check=True, capture_output=True, text=True).stdout
    assert text.count("Words of the page.") == 80
    assert "Skip to content" not in text
