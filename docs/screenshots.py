"""Screenshots of a report for the documentation: `python docs/screenshots.py RUN` writes docs/images/*.png.

The name of the run says which ones: `quickstart`, or `drawings-quickstart`, which shows real drawings.

Needs Chromium, its driver and selenium (the extra `dev`; `tests/install_browser.sh`).
"""

import base64
import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

IMAGES = Path(__file__).parent / "images"
SHOTS = {
    "quickstart": {
        "report": (1280, 1400, "light", ""),
        "report_samples": (1280, 1000, "light", "#samples"),
        "report_dark": (1280, 900, "dark", "#differences"),
        "report_phone": (360, 780, "light", ""),
    },
    "drawings-quickstart": {
        "drawings": (1280, 1400, "light", ""),
        "drawings_samples": (1280, 630, "light", "#samples"),
    },
}
"""Name of the run -> name of the image -> (width, height, color scheme, section)."""


def main(run: Path) -> None:
    """Writes the screenshots of the report of a run."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("chromium-browser") or ""
    with tempfile.TemporaryDirectory() as profile:
        for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"):
            options.add_argument(flag)
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        browser = webdriver.Chrome(options=options, service=service)
        try:
            for name, shot in SHOTS[run.resolve().name].items():
                image = screenshot(browser, (run / "report.html").resolve().as_uri(), shot)
                image.save(IMAGES / f"{name}.png", optimize=True)
        finally:
            browser.quit()


def screenshot(browser: Any, url: str, shot: tuple[int, int, str, str]) -> Image.Image:
    """One window of a page, with at most 256 colors."""
    width, height, scheme, section = shot
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(url)
    if section:
        browser.execute_script(
            "const one = document.querySelector(arguments[0]);"
            "for (const details of one.querySelectorAll('details')) details.open = true;"
            "one.scrollIntoView({behavior: 'instant'})",
            section,
        )
    data = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
