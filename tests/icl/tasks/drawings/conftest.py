"""Debian packages made in the test, with a few drawings and words, and the folder that is installed from them."""

import io
import random
import tarfile
from pathlib import Path

import pytest

from icl.tasks.drawings.install import install_drawings

SVG = """<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:cc="http://web.resource.org/cc/" width="90pt" height="60pt">
<metadata><rdf:RDF><cc:Work rdf:about=""><dc:title>{title}</dc:title>
<dc:subject><rdf:Bag><rdf:li>{keyword}</rdf:li><rdf:li>hash</rdf:li></rdf:Bag></dc:subject>
<dc:creator><cc:Agent><dc:title>{author}</dc:title></cc:Agent></dc:creator></cc:Work></rdf:RDF></metadata>
{body}</svg>"""
AUTHORS = ("Ann", "Bob", "Cleo", "Dan", "Eve", "Fay")
NOUNS = ("apple", "pear", "horse", "dog", "hammer", "lamp", "sign", "king", "ice_cream", "cream")
LEXNAMES = {"apple": "13", "pear": "13", "horse": "05", "dog": "05", "hammer": "06", "lamp": "06", "sign": "06",
            "king": "18", "ice_cream": "13", "cream": "13"}  # fmt: skip


def make_deb(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data.getvalue()}
    out = b"!<arch>\n"
    for name, content in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        out += header + content + b"\n" * (len(content) % 2)
    path.write_bytes(out)
    return path


def svg(title: str, author: str, keyword: str = "thing") -> bytes:
    """A drawing of four random rectangles."""
    rng = random.Random(f"{title}/{author}")
    body = "".join(
        f'<rect x="{rng.randrange(60)}" y="{rng.randrange(40)}" width="{rng.randrange(9, 30)}" '
        f'height="{rng.randrange(9, 30)}" fill="rgb({rng.randrange(256)},{rng.randrange(256)},{rng.randrange(200)})"/>'
        for _ in range(4)
    )
    return SVG.format(title=title.partition(" #")[0], author=author, keyword=keyword, body=body).encode()


def wordnet_files() -> dict[str, bytes]:
    data = "  1 license\n" + "".join(f"{n:08d} {LEXNAMES[noun]} n 01 {noun}\n" for n, noun in enumerate(NOUNS))
    index = "  1 license\n" + "".join(f"{noun} n 1 0 1 0 {n:08d}\n" for n, noun in enumerate(NOUNS))
    folder = "usr/share/wordnet/"
    return {
        f"{folder}data.noun": data.encode(),
        f"{folder}index.noun": index.encode(),
        f"{folder}noun.exc": b"oxen ox\n",
    }


@pytest.fixture
def wordnet() -> dict[str, bytes]:
    return {name.rpartition("/")[2]: data for name, data in wordnet_files().items()}


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    return make_packages(tmp_path / "packages")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed drawings. Tests do not change them."""
    top = tmp_path_factory.mktemp("drawings")
    return install_drawings(("openclipart", "tuxpaint"), source=make_packages(top / "packages"), folder=top / "new")


def make_packages(folder: Path) -> Path:
    folder.mkdir()
    art = "usr/share/openclipart/svg/"
    things = ("apple", "pear", "horse", "dog", "hammer", "lamp")
    contents = {
        f"{art}things/{thing}_{author}_{n}.svg": svg(f"A {thing} #{n}", author)
        for thing in things
        for author in AUTHORS
        for n in range(2)
    }
    contents[f"{art}things/copy.svg"] = contents[f"{art}things/apple_Ann_0.svg"]
    contents[f"{art}things/blank.svg"] = SVG.format(title="Pear", author="Ann", keyword="x", body="").encode()
    contents[f"{art}things/sign.svg"] = svg("Horse signs", "Ann")
    contents[f"{art}signs/flags/pear.svg"] = svg("Pear", "Dan")
    contents[f"{art}things/far.svg"] = SVG.format(
        title="Dog", author="Ann", keyword="x", body='<image href="dog.png"/>'
    ).encode()
    contents[f"{art}computer/icons/lamp.svg"] = svg("Lamp", "Ann")
    make_deb(folder / "openclipart-svg_1_all.deb", contents, {f"{art}other/link.svg": "../things/copy.svg"})
    stamps = "usr/share/tuxpaint/stamps/"
    from PIL import Image as PILImage

    png = io.BytesIO()
    image = PILImage.new("RGBA", (50, 30), (255, 0, 0, 0))
    image.paste((10, 120, 10, 255), (5, 5, 30, 20))
    image.save(png, "PNG")
    make_deb(
        folder / "tuxpaint-stamps-default_1_all.deb",
        {
            f"{stamps}food/pear.png": png.getvalue(),
            f"{stamps}food/pear.svg": b"<svg/>",
            f"{stamps}food/pear.txt": b"A pear.\nde.utf8=Eine Birne.\n",
            f"{stamps}food/none.png": png.getvalue(),
        },
    )
    make_deb(folder / "wordnet-base_1_all.deb", wordnet_files())
    return folder
