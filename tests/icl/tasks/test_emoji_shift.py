"""The task on hand-made packages of the same layout: six emoji, four vendors."""

import json
from pathlib import Path

import pytest
from PIL import Image

from icl.conformance import check_task
from icl.errors import DataError
from icl.tasks.emoji_shift import DRAWINGS, GROUPS, NAMES, PACKAGES, VENDORS, EmojiShift

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
    for v, vendor in enumerate(VENDORS):
        folder = tmp_path / DRAWINGS[vendor]
        folder.mkdir(parents=True)
        for i, (code, *_) in enumerate(EMOJI):
            if vendor == "fluent" and code == "1FAE0":
                continue
            stem = code if v % 2 else code.replace("-FE0F", "")
            if vendor == "openmoji":
                box = f'<rect width="{9 + i}" height="72"/>'
                svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">{box}</svg>'
                (folder / f"{stem}.svg").write_text(svg)
            else:
                image = Image.new("RGBA", (256, 256) if vendor == "fluent" else (64, 64), (0, 0, 0, 0))
                image.paste((20 * i + 20, 60 * v, 90, 255), (0, 0, 20 + i, 40))
                image.save(folder / f"{stem.lower()}.{'webp' if vendor == 'fluent' else 'png'}", lossless=True)
    return tmp_path


def test_without_the_packages_it_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"npm ci --ignore-scripts --prefix .*emoji_shift_npm"):
        _ = EmojiShift(modules=str(tmp_path)).queries


def test_packages_are_pinned_with_their_digests() -> None:
    wanted = json.loads((PACKAGES / "package.json").read_text())["dependencies"]
    locked = json.loads((PACKAGES / "package-lock.json").read_text())["packages"]
    assert {path.split("/")[0] for path in (*DRAWINGS.values(), NAMES) if path[0] != "@"} <= set(wanted)
    for name, version in wanted.items():
        assert locked[f"node_modules/{name}"]["version"] == version
    assert all("integrity" in told for path, told in locked.items() if path)


class TestWithDrawings:
    """Everything below opens drawings, and SVGs need resvg-py."""

    @pytest.fixture(autouse=True)
    def resvg(self) -> None:
        pytest.importorskip("resvg_py", reason="resvg-py is not installed (the extra `emoji`)")

    @pytest.mark.parametrize("held_out", VENDORS)
    def test_it_is_a_task_and_the_vendor_asked_about_is_in_no_pool(self, held_out: str, modules: Path) -> None:
        task = EmojiShift(held_out=held_out, modules=str(modules))  # type: ignore[arg-type]
        check_task(task)
        assert {query.domain for query in task.queries} == {held_out}
        pool = task.pool(task.queries[0].id)
        assert {example.domain for example in pool.examples} == set(VENDORS) - {held_out}
        assert len(pool) == task.pool_size == 3 * len(task.queries) == 18
        assert {query.pictures[0].open().size for query in task.queries} == {(64, 64)}
        assert {query.answer for query in task.queries} == {name for _, name, *_ in EMOJI[:6]}

    def test_subgroups_are_classes_where_they_have_five_emoji(self, modules: Path) -> None:
        task = EmojiShift(classes="subgroup", modules=str(modules))
        assert {(query.label, query.answer) for query in task.queries} == {("face smiling", "face smiling")}
        assert len(task.queries) == 5

    def test_halves_share_no_emoji_and_make_the_whole(self, modules: Path) -> None:
        first, second, both = (EmojiShift(half=half, modules=str(modules)) for half in ("first", "second", "both"))  # type: ignore[arg-type]
        groups = [{e.group for e in (*task.queries, *task.pool("").examples)} for task in (first, second, both)]
        assert groups[0].isdisjoint(groups[1])
        assert groups[0] | groups[1] == groups[2]
        assert groups[0]
        assert groups[1]

    def test_drawings_are_laid_over_white(self, modules: Path) -> None:
        task = EmojiShift(held_out="openmoji", modules=str(modules))
        assert task.queries[0].pictures[0].open().getpixel((60, 60)) == (255, 255, 255)
        assert task.queries[0].pictures[0].open().getpixel((2, 30)) == (0, 0, 0)
