"""Emoji of npm packages: five styles for the task `emoji-shift`, and three of them among the drawings.

The packages are pinned in `icl/tasks/emoji_shift_npm`. The drawings leave out flags, people, clocks
and buttons, because their names are no nouns.
"""

import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from icl import PIL, DataError, Image, decode_image
from icl.tasks.drawings.catalog import SourceDrawing

Style = Literal["noto", "twemoji", "fluent", "fluent-flat", "openmoji"]
STYLES: tuple[Style, ...] = get_args(Style)
SAME_VENDOR: tuple[Style, ...] = ("fluent", "fluent-flat")
"""Two styles of one design. If one is held out, the other is not in the pool."""

PACKAGES = Path(__file__).parents[1] / "emoji_shift_npm"
"""The folder of the pinned `package.json`, where `npm ci` creates `node_modules`."""

DRAWINGS: Mapping[Style, str] = {
    "noto": "emoji-datasource-google/img/google/64",
    "twemoji": "emoji-datasource-twitter/img/twitter/64",
    "fluent": "@lobehub/fluent-emoji-3d/assets",
    "fluent-flat": "@iconify-json/fluent-emoji-flat",
    "openmoji": "openmoji/color/svg",
}
ICONS, CHARS = "icons.json", "chars.json"
"""In a package of Iconify: the SVG of each drawing by name, and the name of each emoji."""
SIDES = ("width", "height")

NAMES, GROUPS = "emojibase-data/en/data.json", "emojibase-data/meta/groups.json"
LEFT_OUT = ("component", "flags")
"""Groups that need other knowledge: skin tones and hair, and flags."""

SIDE = 64

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


@dataclass(frozen=True)
class Emoji:
    """One emoji. code: code points in hexadecimal. classes: its name on each level. drawings: style -> its source."""

    code: str
    classes: Mapping[str, str]
    drawings: "Mapping[Style, EmojiSource]"

    def image(self, style: Style) -> Image:
        """The drawing at 64 x 64, over white."""
        return Image.from_source(partial(_drawing, *self.drawings[style]), f"emoji/{style}/{self.code}")


EmojiSource = tuple[str, str]
"""A file, and the name of the drawing if the file contains many."""


def same_vendor(one: Style, other: Style) -> bool:
    """Whether both styles are of one design."""
    return one == other or {one, other} <= set(SAME_VENDOR)


@lru_cache(maxsize=4)
def load_emoji(modules: Path) -> tuple[Emoji, ...]:
    """The emoji that all styles have, in Unicode's order. Raises DataError with installation instructions."""
    missing = [path for path in (*DRAWINGS.values(), NAMES, GROUPS) if not (modules / path).exists()]
    if missing:
        raise DataError(
            f"task 'emoji-shift' reads npm packages that are not installed: there is no {modules / missing[0]}. "
            f"Install the pinned ones (300 MB) with: npm ci --ignore-scripts --prefix {PACKAGES}"
        )
    if find_spec("resvg_py") is None:
        raise DataError(
            "task 'emoji-shift' draws SVGs with the package resvg-py, which is not installed. "
            "Install it with: pip install 'mm-icl[emoji]'"
        )
    sources = {style: _sources_in(modules / path) for style, path in DRAWINGS.items()}
    names, groups = (json.loads((modules / path).read_text(encoding="utf-8")) for path in (NAMES, GROUPS))
    excluded = {number for number, group in groups["groups"].items() if group in LEFT_OUT}
    return tuple(
        Emoji(
            code,
            {"subgroup": groups["subgroups"][str(one["subgroup"])].replace("-", " "), "emoji": one["label"]},
            drawings,
        )
        for one in names
        if str(one.get("group", "")) in groups["groups"].keys() - excluded and "subgroup" in one
        for code in [_code(one["hexcode"])]
        if all(code in own for own in sources.values())
        for drawings in [{style: own[code] for style, own in sources.items()}]
    )


def _sources_in(folder: Path) -> dict[str, EmojiSource]:
    """Code -> drawing, for a folder of files or a package of Iconify."""
    if not (folder / ICONS).is_file():
        return {_code(path.stem): (str(path), "") for path in folder.iterdir()}
    names: dict[str, str] = json.loads((folder / CHARS).read_text(encoding="utf-8"))
    return {_code(code): (str(folder / ICONS), name) for code, name in names.items()}


@lru_cache(maxsize=1)
def _icons(path: str) -> dict[str, str]:
    """Name -> SVG, for a package of Iconify."""
    package = json.loads(Path(path).read_text(encoding="utf-8"))
    sizes = {name: [one.get(side, package.get(side, 16)) for side in SIDES] for name, one in package["icons"].items()}
    namespace = "http://www.w3.org/2000/svg"
    return {
        name: f'<svg xmlns="{namespace}" viewBox="0 0 {wide} {high}">{package["icons"][name]["body"]}</svg>'
        for name, (wide, high) in sizes.items()
    }


def _code(stem: str) -> str:
    """The normalized code. Vendors differ in case and in whether they write the variation selector."""
    return stem.upper().replace("-FE0F", "")


def _drawing(path: str, name: str) -> "PIL.Image.Image":
    if name or path.endswith(".svg"):
        from resvg_py import svg_to_bytes

        text = _icons(path)[name] if name else Path(path).read_text(encoding="utf-8")
        png = svg_to_bytes(svg_string=text, width=SIDE, height=SIDE, skip_system_fonts=True)
        return decode_image(bytes(png))
    image = decode_image(path)
    return (
        image
        if image.size == (SIDE, SIDE)
        else image.convert("RGBA").resize((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
    )
