"""`icl data drawings` reads packages without installing them, and writes cleaned drawings or a sentence."""

import json
import tomllib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as PILImage

from icl.errors import DataError, ImageError
from icl.tasks.drawings import emoji
from icl.tasks.drawings import install as install_module
from icl.tasks.drawings.install import Nouns, install_drawings
from icl.tasks.drawings.table import IMAGES, SOURCES, TABLE, read_drawings

pytest.importorskip("resvg_py", reason="renders the SVGs of the test")
SETS = ("openclipart", "tuxpaint")


def install(packages, tmp_path, sets=SETS):
    return install_drawings(sets, source=packages, folder=tmp_path / "drawings")


def test_drawings_have_titles_authors_nouns_and_a_reason_where_left_out(packages, tmp_path) -> None:
    folder = install(packages, tmp_path)
    rows = {(row.style, row.title, row.author): row for row in read_drawings(folder)}
    apple = rows["openclipart", "A apple", "Ann"]
    assert (apple.title, apple.author, apple.noun, apple.category) == ("A apple", "Ann", "apple", "food")
    assert apple.keywords == ("thing",), "'hash' is an artifact of the package"
    assert rows["openclipart", "Horse signs", "Ann"].noun == "", "signs about horses show no horse"
    assert rows["openclipart", "Pear", "Dan"].noun == "", "a flag shows no thing"
    assert rows["tuxpaint", "A pear", ""].noun == "pear"
    left_out = json.loads((folder / SOURCES).read_text())["left_out"]
    assert left_out == {
        "copy of another": 1, "blank": 1, "shows a file that is missing": 1, "icons, buttons, stars and patterns": 1,
        "has no title": 1,
    }  # fmt: skip
    assert Counter(row.noun for row in read_drawings(folder))["apple"] == 12


def test_an_image_is_cropped_to_what_is_drawn_on_a_white_square(packages, tmp_path) -> None:
    folder = install(packages, tmp_path)
    pixels = np.asarray(PILImage.open(next((folder / IMAGES).glob("tuxpaint-*.png"))))
    assert pixels.shape == (256, 256, 3)
    ink = np.argwhere(pixels.min(axis=2) < 200)
    assert (ink[:, 1].min(), ink[:, 1].max()) == (0, 255), "25 x 15 pixels fill the width"
    assert ink[:, 0].min() in (51, 52)
    assert ink[:, 0].max() in (203, 204)
    assert (pixels[0, 0] == 255).all()


def test_a_finished_folder_is_not_made_again_and_another_set_is_added(packages, tmp_path) -> None:
    folder = install(packages, tmp_path, ("openclipart",))
    before = (folder / SOURCES).stat().st_mtime_ns
    assert install(packages, tmp_path, ("openclipart",)) == folder
    assert (folder / SOURCES).stat().st_mtime_ns == before
    install(packages, tmp_path)
    assert {row.style for row in read_drawings(folder)} == {"openclipart", "tuxpaint"}
    assert not list(tmp_path.glob("drawings-*")), "nothing is left over"


def test_another_set_joins_those_that_are_installed(packages, tmp_path) -> None:
    install(packages, tmp_path, ("openclipart",))
    folder = install(packages, tmp_path, ("tuxpaint",))
    assert {row.style for row in read_drawings(folder)} == {"openclipart", "tuxpaint"}


@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_a_damaged_image_names_the_command_that_mends_the_folder(packages, tmp_path, damage) -> None:
    folder = install(packages, tmp_path, ("tuxpaint",))
    (row,) = read_drawings(folder)
    file = folder / IMAGES / row.file
    content, middle = file.read_bytes(), file.stat().st_size // 2
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(
            content[:middle] + (b"" if damage == "cut" else bytes([content[middle] ^ 1]) + content[middle + 1 :])
        )
    problem = rf"the drawing {file} (does not exist|is damaged .*)\. Mend.*: icl data drawings --to {folder}"
    with pytest.raises(ImageError, match=problem):
        row.image(folder).open()
    install(packages, tmp_path, ("tuxpaint",))
    assert file.read_bytes() == content
    assert row.image(folder).open().size == (256, 256)


def test_too_little_space_for_the_sets_is_refused_before_anything_is_written(packages, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(install_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=200e6))
    with pytest.raises(DataError, match=r"has 200 MB of free space, and openclipart, tuxpaint need 250\. .*--sets"):
        install(packages, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    assert read_drawings(install(packages, tmp_path / "new", ("tuxpaint",)))


def test_a_disk_that_fills_up_leaves_the_old_folder(packages, tmp_path, monkeypatch) -> None:
    folder = install(packages, tmp_path, ("tuxpaint",))

    def full(*args: object, **keys: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PILImage.Image, "save", full)
    with pytest.raises(DataError, match=r"cannot be written to .*No space left on device\. Then repeat: icl data draw"):
        install(packages, tmp_path)
    assert {row.style for row in read_drawings(folder)} == {"tuxpaint"}
    assert not list(tmp_path.glob("drawings-?*/new"))


def test_a_folder_with_other_files_is_not_touched(packages, tmp_path) -> None:
    mine = tmp_path / "drawings" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("years of work")
    with pytest.raises(DataError, match=r"is no folder of drawings and is not empty.*--to FOLDER"):
        install(packages, tmp_path)
    assert mine.read_text() == "years of work"


def test_a_line_break_of_unicode_in_a_title_is_no_end_of_a_row(packages, tmp_path) -> None:
    folder = install(packages, tmp_path, ("tuxpaint",))
    row = json.loads((folder / TABLE).read_text().strip())
    (folder / TABLE).write_text(json.dumps({**row, "title": "a\u2028b"}, ensure_ascii=False) + "\n")
    assert [one.title for one in read_drawings(folder)] == ["a\u2028b"]


def test_a_damaged_package_leaves_the_old_folder(packages, tmp_path) -> None:
    folder = install(packages, tmp_path, ("openclipart",))
    deb = next(packages.glob("tuxpaint*"))
    deb.write_bytes(deb.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"tuxpaint.* cannot be read as a Debian package .*icl data drawings"):
        install(packages, tmp_path)
    assert (folder / SOURCES).exists()
    assert not list(tmp_path.glob("drawings-?*/new"))


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [
        (("openclipart", "clipart"), "no set of drawings named 'clipart'"),
        ((), "no set of drawings is named"),
        (("emoji",), "npm packages that are not installed"),
    ],
)
def test_a_set_that_is_not_there_is_a_sentence(packages, tmp_path, sets, sentence) -> None:
    with pytest.raises(DataError, match=sentence):
        install(packages, tmp_path, sets)


def test_without_apt_get_the_sentence_names_the_file_to_bring(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"no apt-get.*wordnet-base.*--from FOLDER"):
        install_drawings(("openclipart",), folder=tmp_path / "drawings")


def test_a_failed_download_gives_the_reason_of_apt_get(monkeypatch, tmp_path) -> None:
    fake = tmp_path / "apt-get"
    fake.write_text("#!/bin/sh\necho 'E: Failed to fetch something' >&2\nexit 100\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(DataError, match=r"could not download wordnet-base: Failed to fetch something.*apt-get update"):
        install_drawings(("openclipart",), folder=tmp_path / "drawings")


def test_a_download_that_was_cut_is_continued_and_not_read(packages, monkeypatch, tmp_path) -> None:
    """apt-get leaves the bytes that arrived under the file's own name, and continues them when it runs again."""
    fake, attempts = tmp_path / "apt-get", tmp_path / "attempts"
    fake.write_text(
        f"""#!/bin/sh
file=$(ls {packages}/$2_*.deb)
echo $2 $(ls | wc -l) >> {attempts}
if [ $2 = openclipart-svg ] && [ ! -e $(basename $file) ]; then
    head -c 2000 $file > $(basename $file)
    echo "E: Failed to fetch $2: connection closed" >&2
    exit 100
fi
cp $file .
"""
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(
        DataError, match=r"could not download openclipart-svg: .* connection closed\. .*icl data drawings"
    ):
        install_drawings(("openclipart",), folder=tmp_path / "drawings")
    assert not (tmp_path / "drawings").exists()
    assert read_drawings(install_drawings(("openclipart",), folder=tmp_path / "drawings"))
    assert attempts.read_text().split() == ["wordnet-base", "0", "openclipart-svg", "0", "openclipart-svg", "1"]


def test_a_failure_of_npm_gives_its_reason(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(emoji, "PACKAGES", tmp_path / "npm")
    (tmp_path / "npm").mkdir()
    for name in ("package.json", "package-lock.json"):
        (tmp_path / "npm" / name).write_text("{}")
    fake = tmp_path / "npm" / "npm"
    fake.write_text(
        """#!/bin/sh
case "$*" in *--silent*) exit 1; esac
echo "npm error code ECONNREFUSED" >&2
echo "npm error FetchError: request to openmoji failed, reason: connect ECONNREFUSED" >&2
exit 1
"""
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    with pytest.raises(DataError, match=r"emoji packages: FetchError: request to openmoji failed, .*icl data drawings"):
        next(emoji.emoji(tmp_path, None, lambda what, done, total: None))


@pytest.mark.parametrize(
    ("title", "noun"),
    [
        ("Two apples in a bowl", "apple"),
        ("horse icon", "horse"),
        ("King with a lamp", None),
        ("Ice cream", "ice cream"),
        ("lamp (B and W)", "lamp"),
        ("oxen", None),
        ("the dog and the king", "dog"),
    ],
)
def test_the_noun_of_a_title_stands_before_the_first_preposition(title, noun, wordnet) -> None:
    nouns = Nouns.from_files(wordnet)
    assert nouns.noun_of(title) == noun


def test_the_extra_of_the_small_model_renders_drawings_too() -> None:
    """Its page begins with `pip install '.[small]'` and `icl data drawings`."""
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    assert set(extras["emoji"]) <= set(extras["small"])
