"""Three emoji styles among the drawings: the same things, drawn by three vendors.

The npm packages are those of the task `emoji-shift`. Flags, people, clocks and buttons are left out, whose names are
no nouns.
"""

import io
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from icl.errors import DataError
from icl.tasks.drawings.catalog import SourceDrawing
from icl.tasks.emoji_shift import PACKAGES, Style, load_emoji

EMOJI_STYLES: tuple[Style, ...] = ("noto", "twemoji", "fluent")
EMOJI_LICENSES: Mapping[str, str] = {
    "emoji-datasource-google": "Apache-2.0",
    "emoji-datasource-twitter": "CC-BY-4.0",
    "@lobehub/fluent-emoji-3d": "MIT",
    "emojibase-data": "MIT",
}
NODE_MODULES = "node_modules"
_NPM_PREFIX = re.compile(r"^npm (?:error|ERR!) ?")
_NO_THING = re.compile(r"^(?:wo)?m[ae]n\b|facing|button|clock face|o’clock|thirty|sign$")


def emoji(
    downloads: Path, source: Path | None, report_progress: Callable[[str, int, int], None]
) -> Iterator[SourceDrawing]:
    """The emoji of three styles.

    Args:
        downloads: Where `npm ci` installs the packages.
        source: A folder that has `node_modules` with them; nothing is downloaded then.

    Raises:
        DataError: npm is missing or failed, or the packages are not in `source`.
    """
    for one in load_emoji(_modules(downloads, source, report_progress)):
        title = one.classes["emoji"]
        reason = "names no thing" if _NO_THING.search(title) else ""
        for style in EMOJI_STYLES:
            content = b""
            if not reason:
                out = io.BytesIO()
                one.image(style).load().save(out, "PNG")
                content = out.getvalue()
            yield SourceDrawing(style, f"{one.code}.png", title, one.classes["subgroup"], content, left_out=reason)


def _modules(downloads: Path, source: Path | None, report_progress: Callable[[str, int, int], None]) -> Path:
    if source is not None:
        return source / NODE_MODULES
    if (PACKAGES / NODE_MODULES).is_dir():
        return PACKAGES / NODE_MODULES
    modules = downloads / "emoji" / NODE_MODULES
    if (modules / ".package-lock.json").is_file():  # npm writes it last
        return modules
    if shutil.which("npm") is None:
        raise DataError(
            "the emoji styles are npm packages, and npm is not installed. Install it, or leave them out: "
            "icl data drawings --sets openclipart,tuxpaint"
        )
    report_progress("emoji styles (300 MB of npm packages)", 0, 0)
    modules.parent.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PACKAGES / name, modules.parent / name)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    ended = subprocess.run(command, cwd=modules.parent, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise DataError(
            f"npm could not install the emoji packages: {_npm_reason(ended.stderr, ended.returncode)}. Check the "
            "connection, then repeat: icl data drawings"
        )
    return modules


def _npm_reason(errors: str, status: int) -> str:
    """The first line of npm's errors that says more than a code, such as "FetchError: request to ... failed"."""
    lines = [_NPM_PREFIX.sub("", line).strip().rstrip(".") for line in errors.splitlines()]
    lines = [line for line in lines if line and not line.startswith("at ")]
    return next(iter([line for line in lines if ": " in line] or lines), f"it ended with status {status}")
