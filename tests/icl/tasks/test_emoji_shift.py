"""The task on hand-made packages of the same layout: six emoji, five styles."""

import json
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image as PILImage

from icl.errors import DataError
from icl.tasks.drawings.emoji import CHARS, DRAWINGS, GROUPS, ICONS, NAMES, PACKAGES, STYLES, same_vendor
from icl.tasks.emoji_shift import EmojiShiftTask
from icl.testing.conformance import check_task

HALVES: tuple[Literal["first", "second", "both"], ...] = ("first", "second", "both")

EMOJI = [  # code, name, subgroup, group
    ("1F600", "grinning face", 0, 0),
    ("1F603", "big eyes", 0, 0),
    ("1F604", "smiling eyes", 0, 0),
    ("1F601", "beaming face", 0, 0),
    ("1F606", "squinting face", 0, 0),
    ("2639-FE0F", "frowning face", 1, 0),
    ("1F3C1", "chequered flag", 2, 1),
    ("1F9B0", "red hair", 3, 2),
    ("1FAE0", "melting face", 0, 0),
]


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """The melting face lacks at one vendor; a flag and hair are left out; vendors write FE0F or not."""
    for path in (NAMES, GROUPS):
        (tmp_path / path).parent.mkdir(parents=True)
    rows = [{"hexcode": c, "label": n, "subgroup": s, "group": g} for c, n, s, g in EMOJI]
    (tmp_path / NAMES).write_text(json.dumps([{"hexcode": "1F1E6", "label": "no group"}, *rows]))
    groups = {"0": "smileys-emotion", "1": "flags", "2": "component"}
    subgroups = {"0": "face-smiling", "1": "face-sad", "2": "flag", "3": "hair-style"}
    (tmp_path / GROUPS).write_text(json.dumps({"groups": groups, "subgroups": subgroups}))
    for v, vendor in enumerate(STYLES):
        folder = tmp_path / DRAWINGS[vendor]
        folder.mkdir(parents=True)
        if vendor == "fluent-flat":
            _write_icons(folder)
            continue
        for i, (code, *_) in enumerate(EMOJI):
            if vendor == "fluent" and code == "1FAE0":
                continue
            stem = code if v % 2 else code.replace("-FE0F", "")
            if vendor == "openmoji":
                box = f'<rect width="{9 + i}" height="72"/>'
                svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">{box}</svg>'
                (folder / f"{stem}.svg").write_text(svg)
            else:
                image = PILImage.new("RGBA", (256, 256) if vendor == "fluent" else (64, 64), (0, 0, 0, 0))
                image.paste((20 * i + 20, 60 * v, 90, 255), (0, 0, 20 + i, 40))
                image.save(folder / f"{stem.lower()}.{'webp' if vendor == 'fluent' else 'png'}", lossless=True)
    return tmp_path


def _write_icons(folder: Path) -> None:
    """A package of Iconify's: codes in lower case without FE0F, one icon of a size of its own."""
    names = {code.lower().replace("-fe0f", ""): name.replace(" ", "-") for code, name, *_ in EMOJI}
    (folder / CHARS).write_text(json.dumps(names))
    icons = {name: {"body": f'<rect width="{3 + i}" height="9"/>'} for i, name in enumerate(names.values())}
    framed = {"grinning-face": {**icons["grinning-face"], "width": 64, "height": 64}}
    (folder / ICONS).write_text(json.dumps({"icons": {**icons, **framed}, "width": 32, "height": 32}))


def test_without_the_packages_it_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"npm ci --ignore-scripts --prefix .*emoji_shift_npm"):
        _ = EmojiShiftTask(modules=str(tmp_path)).queries


def test_packages_are_pinned_with_their_digests() -> None:
    dependencies = json.loads((PACKAGES / "package.json").read_text())["dependencies"]
    locked = json.loads((PACKAGES / "package-lock.json").read_text())["packages"]
    parts = [path.split("/") for path in (*DRAWINGS.values(), NAMES)]
    assert {"/".join(own[: 2 if own[0][0] == "@" else 1]) for own in parts} == set(dependencies)
    for name, version in dependencies.items():
        assert locked[f"node_modules/{name}"]["version"] == version
    assert all("integrity" in entry for path, entry in locked.items() if path)


class TestWithDrawings:
    """Everything below opens drawings, and SVGs need resvg-py."""

    @pytest.fixture(autouse=True)
    def resvg(self) -> None:
        pytest.importorskip("resvg_py", reason="resvg-py is not installed (the extra `emoji`)")

    @pytest.mark.parametrize("held_out", STYLES)
    def test_it_is_a_task_and_the_vendor_asked_about_is_in_no_pool(self, held_out: str, modules: Path) -> None:
        task = EmojiShiftTask(held_out=held_out, modules=str(modules))  # type: ignore[arg-type]
        check_task(task)
        assert {query.domain for query in task.queries} == {held_out}
        pool = task.pool(task.queries[0].id)
        others = {style for style in STYLES if not same_vendor(style, held_out)}  # type: ignore[arg-type]
        assert {example.domain for example in pool.examples} == others
        assert len(others) == (3 if held_out.startswith("fluent") else 4)
        assert len(pool) == task.pool_size == len(others) * len(task.queries)
        assert len(task.queries) == 6
        assert {query.images[0].open().size for query in task.queries} == {(64, 64)}
        assert {query.answer for query in task.queries} == {name for _, name, *_ in EMOJI[:6]}

    def test_subgroups_of_five_emoji_are_classes(self, modules: Path) -> None:
        task = EmojiShiftTask(classes="subgroup", modules=str(modules))
        assert {(query.label, query.answer) for query in task.queries} == {("face smiling", "face smiling")}
        assert len(task.queries) == 5

    def test_halves_share_no_emoji_and_make_the_whole(self, modules: Path) -> None:
        first, second, both = (EmojiShiftTask(half=half, modules=str(modules)) for half in HALVES)
        groups = [{e.group for e in (*task.queries, *task.pool("").examples)} for task in (first, second, both)]
        assert groups[0].isdisjoint(groups[1])
        assert groups[0] | groups[1] == groups[2]
        assert groups[0]
        assert groups[1]

    def test_an_icon_is_drawn_in_its_own_frame(self, modules: Path) -> None:
        """In a frame of 32 an edge at 9 is at 18 of 64; the one with a frame of 64 keeps it."""
        queries = EmojiShiftTask(held_out="fluent-flat", modules=str(modules)).queries
        images = {query.answer: query.images[0].open() for query in queries}
        for name, edge in (("big eyes", 18), ("grinning face", 9)):
            assert images[name].getpixel((1, edge - 2)) == (0, 0, 0)
            assert images[name].getpixel((1, edge + 2)) == (255, 255, 255)

    def test_drawings_are_laid_over_white(self, modules: Path) -> None:
        task = EmojiShiftTask(held_out="openmoji", modules=str(modules))
        assert task.queries[0].images[0].open().getpixel((60, 60)) == (255, 255, 255)
        assert task.queries[0].images[0].open().getpixel((2, 30)) == (0, 0, 0)
