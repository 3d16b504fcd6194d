"""Emoji as a distribution shift: emoji in five styles of four vendors, with one vendor for the queries and the others
in the pool.

    noto         emoji-datasource-google 16           PNG 64       Google's Noto             Apache-2.0 and OFL
    twemoji      emoji-datasource-twitter 16          PNG 64       Twemoji                   CC-BY-4.0
    fluent       @lobehub/fluent-emoji-3d 1.1         WebP 256     Microsoft's 3-D style     MIT
    fluent-flat  @iconify-json/fluent-emoji-flat 1.2  SVG          Microsoft's flat style    MIT
    openmoji     openmoji 17                          SVG          line drawings             CC-BY-SA-4.0

Microsoft's two styles are one design: if one of them is held out, the other is not in the pool. Names and groups of the
emoji are those of emojibase-data 17 (MIT). The npm packages are pinned in the folder `emoji_shift_npm` and are not part
of the toolkit. `resvg-py` renders the SVGs. The task uses the 1,500 emoji that all styles have, without flags and skin
tones.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from icl.constraints import PositiveInt
from icl.errors import DataError
from icl.images import Image, decode_image
from icl.parameter_files import expand_user
from icl.registry import component, parameter
from icl.streams import StreamKey
from icl.tasks.base import Pool, SharedPoolTask
from icl.tasks.subset import nested_choice
from icl.types import Example

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Style = Literal["noto", "twemoji", "fluent", "fluent-flat", "openmoji"]
STYLES: tuple[Style, ...] = get_args(Style)
SAME_VENDOR: tuple[Style, ...] = ("fluent", "fluent-flat")
"""Two styles of one design. If one is held out, the other is not in the pool."""

PACKAGES = Path(__file__).parent / "emoji_shift_npm"
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

SIDE, FEWEST = 64, 5
QUESTIONS = {"subgroup": "What kind of emoji is this?", "emoji": "Which emoji is this?"}


@component("task", "emoji-shift")
@dataclass(frozen=True)
class EmojiShiftTask(SharedPoolTask):
    """Emoji in five styles: queries have the style that is held out, the pool has those of other vendors.

    The domain is the style, the group is the emoji. Classes are the emoji themselves, with three or four drawings each
    in a pool, or emojibase's subgroups of five or more ("animal bird"). Halves divide the emoji at random: a head that
    is trained on the first half is tested on emoji of the second, none of whose drawings it has seen.
    """

    held_out: Style = "openmoji"  # the style of the queries
    classes: Literal["emoji", "subgroup"] = "emoji"  # level of the answers
    half: Literal["both", "first", "second"] = "both"  # half of the emoji, in pool and queries
    query_limit: PositiveInt | None = parameter("queries", None)  # number of queries, a nested choice; None: all emoji
    seed: int = 0  # random seed of halves and choice, independent of the seeds of a run
    modules: str | None = None  # another `node_modules` with the packages

    @property
    def title(self) -> str:
        half = "" if self.half == "both" else f", {self.half} half"
        return f"emoji-shift by {self.classes} ({self.held_out}{half})"

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        every = self._examples(self.held_out)
        chosen = nested_choice([e.group or e.id for e in every], self.query_limit, self.seed, "emoji-shift/queries")
        return tuple(every[i] for i in chosen)

    @cached_property
    def _pool(self) -> Pool:
        return Pool(
            tuple(e for style in STYLES if not same_vendor(style, self.held_out) for e in self._examples(style))
        )

    def _half(self, code: str) -> str:
        return ("first", "second")[StreamKey(self.seed, code).number("emoji-shift/half", 1)]

    def _examples(self, style: Style) -> list[Example]:
        modules = expand_user(self.modules) if self.modules else PACKAGES / "node_modules"
        labeled = [(emoji, emoji.classes[self.classes]) for emoji in load_emoji(modules)]
        size = Counter(name for _, name in labeled)
        if self.classes == "subgroup":
            labeled = [(emoji, name) for emoji, name in labeled if size[name] >= FEWEST]
        labeled = [(emoji, name) for emoji, name in labeled if self.half in ("both", self._half(emoji.code))]
        return [
            Example(
                id=f"{style}-{emoji.code}",
                images=(emoji.image(style),),
                question=QUESTIONS[self.classes],
                answers=(name,),
                label=name,
                domain=style,
                group=emoji.code,
            )
            for emoji, name in labeled
        ]


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


def _drawing(path: str, name: str) -> "PILImage":
    from PIL import Image as PILImage

    if name or path.endswith(".svg"):
        from resvg_py import svg_to_bytes

        text = _icons(path)[name] if name else Path(path).read_text(encoding="utf-8")
        png = svg_to_bytes(svg_string=text, width=SIDE, height=SIDE, skip_system_fonts=True)
        return decode_image(bytes(png))
    image = decode_image(path)
    return (
        image if image.size == (SIDE, SIDE) else image.convert("RGBA").resize((SIDE, SIDE), PILImage.Resampling.LANCZOS)
    )
