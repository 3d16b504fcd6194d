"""The drawings of two Debian packages, with titles, keywords and authors.

    openclipart  8,121 drawings, public domain; title, keywords and author stand in each SVG
    tuxpaint     stamps of a painting program for children, GPL-2+; the title stands in a text file

Of openclipart, icons, buttons, stars and patterns are left out, and links, which repeat a drawing in another folder.
"""

import gzip
import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from icl.tasks.drawings.packages import iter_files

SVG_FOLDER, STAMP_FOLDER = "usr/share/openclipart/svg/", "usr/share/tuxpaint/stamps/"
LEFT_OUT = ("computer/icons/", "computer/buttons/", "buttons/", "special/", "shapes/stars/")
NO_KEYWORDS = frozenset(
    {"hash", "magick", "unsorted", "clip art", "clipart", "contour", "colouring book", "externalsource"}
)
NOT_BY_NOUN = frozenset({"flags", "roadsigns", "weather", "people"})
"""Folders whose titles name a country, a rule or a role."""
ITALIAN = frozenset({"Architetto Francesco Rollandin"})
"""Authors whose titles are Italian words, some of which are English ones of another meaning."""

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_DC = "{http://purl.org/dc/elements/1.1/}"


@dataclass(frozen=True)
class SourceDrawing:
    """A drawing as a package has it.

    Attributes:
        style: The set it belongs to, such as 'openclipart'.
        name: Its file below the set's folder.
        folder: The folder of the file, which is a topic.
        left_out: Why it is not used; '' if it is.
    """

    style: str
    name: str
    title: str
    folder: str
    content: bytes
    keywords: tuple[str, ...] = ()
    author: str = ""
    left_out: str = ""

    @property
    def is_titled_by_noun(self) -> bool:
        """Whether the title may name what the drawing shows in English."""
        in_folder = NOT_BY_NOUN & set(self.folder.split("/"))
        return not in_folder and self.author not in ITALIAN and "iconset" not in self.title


def openclipart(deb: Path) -> Iterator[SourceDrawing]:
    """The drawings of Debian's package openclipart-svg. Raises DataError for a damaged file."""
    for path, raw in iter_files(deb):
        if not path.startswith(SVG_FOLDER) or not path.endswith(".svg"):
            continue
        name = path.removeprefix(SVG_FOLDER)
        content = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
        folder = name.rpartition("/")[0]
        if name.startswith(LEFT_OUT):
            yield SourceDrawing("openclipart", name, "", folder, b"", left_out="icons, buttons, stars and patterns")
        else:
            title, keywords, author = _metadata(content)
            yield SourceDrawing("openclipart", name, title, folder, content, keywords, author)


def _metadata(svg: bytes) -> tuple[str, tuple[str, ...], str]:
    """(title, keywords, author) of an SVG, from its RDF metadata; empty where it has none."""
    begin, end = svg.find(b"<rdf:RDF"), svg.find(b"</rdf:RDF>")
    if begin < 0 or end < 0:
        return "", (), ""
    try:
        root = ElementTree.fromstring(_with_namespaces(svg[begin : end + len(b"</rdf:RDF>")]))
    except ElementTree.ParseError:
        return "", (), ""
    work = next((child for child in root if child.tag.endswith("}Work")), None)
    if work is None:
        return "", (), ""
    title = " ".join(html.unescape(work.findtext(f"{_DC}title") or "").split())
    words = [(item.text or "").strip().lower().replace("_", " ") for item in work.iterfind(f"{_DC}subject//{_RDF}li")]
    author = " ".join((work.findtext(f"{_DC}creator//{_DC}title") or "").split())
    return title, tuple(word for word in words if word and word not in NO_KEYWORDS), author


def _with_namespaces(rdf: bytes) -> bytes:
    """The RDF element with its three namespaces, which some files declare in the SVG element alone."""
    namespaces = {b"rdf": _RDF, b"dc": _DC, b"cc": "{http://web.resource.org/cc/}"}
    head = rdf[: rdf.index(b">")]
    added = b"".join(
        b' xmlns:%s="%s"' % (name, address.strip("{}").encode())
        for name, address in namespaces.items()
        if b"xmlns:%s=" % name not in head
    )
    return b"<rdf:RDF" + added + rdf[len(b"<rdf:RDF") :]


def tuxpaint(deb: Path) -> Iterator[SourceDrawing]:
    """The stamps of Debian's package tuxpaint-stamps-default. Raises DataError for a damaged file."""
    files: dict[str, bytes] = {}
    for path, content in iter_files(deb):
        if path.startswith(STAMP_FOLDER) and path.endswith((".txt", ".png", ".svg")):
            files[path.removeprefix(STAMP_FOLDER)] = content
    for name in sorted(files):
        stem, _, ending = name.rpartition(".")
        if ending == "txt" or (ending == "svg" and f"{stem}.png" in files):
            continue
        title = _stamp_title(files, stem)
        reason = "" if title else "has no title"
        yield SourceDrawing("tuxpaint", name, title, stem.rpartition("/")[0], files[name], left_out=reason)


def _stamp_title(files: Mapping[str, bytes], stem: str) -> str:
    """The English title: the first line of a stamp's text. Other languages begin with 'code.utf8='."""
    first = files.get(f"{stem}.txt", b"").decode("utf-8", "replace").partition("\n")[0].strip()
    return "" if ".utf8=" in first else first.rstrip(".")
