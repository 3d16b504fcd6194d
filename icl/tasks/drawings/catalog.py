"""The drawings of two Debian packages, with titles, keywords and authors.

    openclipart  8,121 drawings, public domain; title, keywords and author stand in each SVG
    tuxpaint     stamps of a painting program for children, GPL-2+; the title stands in a text file

Of openclipart, icons, buttons, stars and patterns are left out, and links, which repeat a drawing in another folder.
"""

import gzip
import hashlib
import html
import io
import lzma
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from icl.errors import DataError

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


# Debian packages that carry drawings and words: fetched by the system's package tools, read without root.
#
# A `.deb` file is an `ar` archive with a compressed tar file inside. It is read in place: nothing is installed, no
# script of a package runs, and only regular files are read.

COMMAND = "icl data drawings"
PARTIAL = "partial"
"""Folder of downloads that may be incomplete."""

MAX_FILE = 64 * 2**20
"""Bytes of a file in a package. The largest drawing has 9 MB."""


@dataclass(frozen=True)
class DebianPackage:
    """A package with drawings or words.

    Attributes:
        size: Bytes of the download.
        version: The version on which the toolkit's figures stand.
        sha256: Checksum of that version's file.
    """

    name: str
    license: str
    size: int
    version: str
    sha256: str


OPENCLIPART = DebianPackage(
    "openclipart-svg",
    "public domain",
    24_919_068,
    "1:0.18+dfsg-19",
    "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
)
TUXPAINT = DebianPackage(
    "tuxpaint-stamps-default",
    "GPL-2+",
    80_872_956,
    "2025.03.31-1",
    "6312d03a37d0220b10fc91a7467bf2a2a2336e08c2f416de04311d25fd7aeacb",
)
WORDNET = DebianPackage(
    "wordnet-base",
    "WordNet 3.0 license",
    6_455_596,
    "1:3.0-39",
    "f4f96d4d5d19061916c66cbb889a0119e6a46f9655051f5fd42b7317e46ce4db",
)


def fetch(package: DebianPackage, folder: Path, source: Path | None = None) -> Path:
    """The package's `.deb` file.

    Args:
        package: The package. folder: Where a downloaded file goes. It is complete or absent: apt-get writes to
        `folder/PARTIAL`, where it continues an interrupted download. source: A folder of `.deb` files that the user
        has. Nothing is downloaded then.

    Raises:
        DataError: The file is not in `source`, there is no apt-get, or the download failed.
    """
    if source is not None:
        if (file := _newest(package, source)) is None:
            raise DataError(
                f"there is no {package.name}_*.deb in {source}. Put the file of Debian's package {package.name} there, "
                f"or leave --from out where apt-get is installed."
            )
        return file
    if shutil.which("apt-get") is None:
        raise DataError(
            f"this system has no apt-get, so the Debian package {package.name} cannot be downloaded. Download its "
            f".deb file elsewhere (`apt-get download {package.name}`), then: {COMMAND} --from FOLDER"
        )
    partial = folder / PARTIAL
    partial.mkdir(exist_ok=True)
    ended = subprocess.run(
        ["apt-get", "download", package.name], cwd=partial, capture_output=True, text=True, check=False
    )
    file = _newest(package, partial)
    if ended.returncode != 0 or file is None:
        lines = [line.removeprefix("E: ") for line in ended.stderr.splitlines() if line.startswith("E:")]
        reason = (lines[-1] if lines else f"it ended with status {ended.returncode}").rstrip(".")
        raise DataError(
            f"apt-get could not download {package.name}: {reason}. Check the connection, run `apt-get update` as root, "
            f"then repeat: {COMMAND}. Files that are already here are not downloaded again."
        )
    return file.rename(folder / file.name)


def _newest(package: DebianPackage, folder: Path) -> Path | None:
    files = sorted(folder.glob(f"{package.name}_*.deb"), key=lambda file: file.stat().st_mtime)
    return files[-1] if files else None


def checksum(file: Path) -> str:
    """sha256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def iter_files(deb: Path) -> Iterator[tuple[str, bytes]]:
    """(path, content) of each regular file of a package, in the archive's order. Links are left out.

    Raises:
        DataError: The file is damaged, or is no Debian package.
    """
    try:
        with deb.open("rb") as stream:
            data = _member(stream, "data.tar")
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as archive:
            for entry in archive:
                if entry.isreg() and entry.size <= MAX_FILE and (content := archive.extractfile(entry)) is not None:
                    yield entry.name.removeprefix("./"), content.read()
    except (OSError, EOFError, ValueError, tarfile.TarError, lzma.LZMAError) as error:
        raise DataError(
            f"{deb} cannot be read as a Debian package ({error}). Delete it, then repeat: {COMMAND}"
        ) from error


def _member(stream: io.BufferedReader, prefix: str) -> bytes:
    """The content of the first member of an `ar` archive whose name has this prefix."""
    if stream.read(8) != b"!<arch>\n":
        raise ValueError("it is no ar archive")
    while len(header := stream.read(60)) == 60:
        name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
        content = stream.read(size + size % 2)
        if name.startswith(prefix):
            return content[:size]
    raise ValueError(f"it has no {prefix}")
