"""Is an image seen, how much of it, and in which files?"""

import io
import itertools
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from . import images
from .distances import distance, energy_test
from .instrument import P_VALUE, Instrument, Prompts, Status, Verdict, check
from .prompts import QUESTION, ImagePart, Prompt, to_parts, turn, user
from .server import RefusedError

GROUP = 10
"""Requests for each image with texts that no cache knows."""
BOARDS = (56, 28, 14, 7, 4)
FINE = 14
LARGE = (3840, 2160)
MARK = (1700, 1000, 1800, 1100)
TURNED = 6
ORIENTATION = 0x0112
JPEG: dict[str, Any] = {"kind": "JPEG", "quality": 98, "subsampling": 0}


def of(image: Image.Image, kind: str = "PNG", **options: Any) -> Prompt:
    """A prompt with one image in a file of this kind."""
    return user([ImagePart(images.data_url(image, kind, **options))])


@check(Prompts.WITH_IMAGES)
def reads(p: Instrument) -> Verdict:
    """An image changes the answer, and another image changes it again."""
    none, answers = p.ask(user("")), [p.ask(user(name)) for name in "ABCDE"]
    differ = sum(size > p.scale.tolerance for size in p.pair_distances)
    witness = (user("A"), user("B"))
    if differ >= 8:
        return Verdict(Status.OK, f"{differ} of 10 pairs of images give different answers")
    if differ:
        text = f"only {differ} of 10 pairs of images give different answers: the model sees little of an image"
        return Verdict(Status.OPEN, text, witness)
    if none.tokens is not None and all(answer.tokens == none.tokens for answer in answers):
        text = "images are dropped: they change neither the answer nor the number of prompt tokens"
        return Verdict(Status.RED, text, witness)
    p_value = _with_new_texts(p)
    if p_value < P_VALUE and (p_value := max(p_value, _with_new_texts(p))) < P_VALUE:  # by chance once in 10,000
        text = (
            "another image with the same text gets the answer to the first one, but not with a new text "
            f"(p = {p_value:.2g}): a cache ignores the image"
        )
        return Verdict(Status.RED, text, witness)
    if not p.server.of_texts and max(p.pair_distances) <= max(p.scale.noise, 1e-6):
        text = "five images give equal log-probabilities to the last digit: pixels never reach the model"
        return Verdict(Status.RED, text, witness)
    if any(p.scale.changed(none, answer) for answer in answers):
        text = "an image changes the answer, but which image does not: it is not read, or the model ignores it"
    else:
        text = "no image changes the answer: the model has no sight, or the server drops images"
    return Verdict(Status.OPEN, text, witness)


def _with_new_texts(p: Instrument) -> float:
    """The p value that two images have the same answers, under texts of which nothing can be cached."""
    rng = random.Random()
    words = ["".join(rng.choices("bcdfghjklm", k=3)) for _ in range(2 * GROUP)]
    one, two = (
        [p.fresh((turn("user", *to_parts(name), f"({words.pop()})", QUESTION),)) for _ in range(GROUP)] for name in "AB"
    )
    return energy_test(one, two, distance, rng)


@check()
def detail(p: Instrument) -> Verdict:
    """Place and color inside an image matter; the smallest detail that is seen."""
    image = images.pixels("A")
    changes = {
        "mirrored": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "in gray": image.convert("L").convert("RGB"),
    }
    missed = [name for name, other in changes.items() if not p.changed(user("A"), of(other))]
    finest = None
    for cell in BOARDS:
        exchange = p.distance(*(of(images.checkerboard(cell, phase)) for phase in (0, 1)))
        if exchange <= max(p.scale.tolerance, p.scale.signal / 20):  # the edges of a board differ even in a blur
            break  # a finer board may shine through as an alias
        finest = cell
    text = f"fields of {finest} px of {images.SIZE} are seen" if finest else "no checkerboard is seen"
    if missed:
        text = f"an image {' and '.join(missed)} gives the same answer; {text}"
        return p.red_if(p.scale.sees, text, user("A"), of(changes[missed[0]]))
    if finest and finest <= FINE:
        return Verdict(Status.OK, text)
    return Verdict(Status.NOTE, f"{text}: the server makes images very small")


@check(Prompts.WITH_IMAGES)
def counts(p: Instrument) -> Verdict:
    """Each image costs the same number of prompt tokens."""
    tokens = [p.ask(user(images.NAMES[:n])).tokens for n in range(4)]
    numbers = [count for count in tokens if count is not None]
    if len(numbers) < len(tokens):
        return Verdict(Status.ABSENT, "the server does not say how many tokens a prompt has")
    steps = [after - before for before, after in itertools.pairwise(numbers)]
    listed = f"prompt tokens with 0 to 3 images: {', '.join(map(str, numbers))}"
    if max(steps) <= 0:
        return Verdict(Status.OPEN, f"{listed}: images are not counted, or not read")
    if min(steps) <= 0:
        n = steps.index(min(steps))
        text = f"{listed}: an image is dropped"
        return Verdict(Status.RED, text, (user(images.NAMES[:n]), user(images.NAMES[: n + 1])))
    if max(steps) - min(steps) > 2 + max(steps) // 10:
        return Verdict(Status.OPEN, f"{listed}: images of one size have different costs")
    return Verdict(Status.OK, f"{steps[0]} tokens for an image of {images.SIZE} x {images.SIZE}")


@check()
def files(p: Instrument) -> Verdict:
    """The same pixels in another file give the same answer."""
    image, notes = images.pixels("B"), []
    forms = {
        "PNG with another compression": of(image, compress_level=1),
        "PNG with opaque alpha": of(image.convert("RGBA")),
        "BMP": of(image, "BMP"),
        "lossless WebP": of(image, "WEBP", lossless=True),
    }
    different = {}
    for name, prompt in forms.items():
        try:
            if p.changed(user("B"), prompt):
                different[name] = prompt
        except RefusedError:
            notes.append(f"{name} is refused")
    jpeg = of(image, **JPEG)
    notes.append(f"JPEG changes the answer by {p.distance(user('B'), jpeg):.2g}")
    nearest = min("ABCDE", key=lambda name: p.distance(jpeg, user(name)))
    if nearest != "B" and p.scale.sees:
        different["JPEG (it is nearer to another image)"] = jpeg
    if (by_address := _by_address(p, image)) is True:
        different["the image by its address"] = user("B")
    elif by_address is not None:
        notes.append(f"by address: {by_address}")
    if different:
        text = f"another answer to {', '.join(different)}; {'; '.join(notes)}"
        return p.red_if(p.scale.sees, text, user("B"), next(iter(different.values())))
    return Verdict(Status.OK, "; ".join(notes))


def _by_address(p: Instrument, image: Image.Image) -> bool | str | None:
    """Whether an image by its address changes the answer, "equal" or "refused". None on a server of another machine."""
    if urlsplit(p.server.url).hostname not in ("127.0.0.1", "localhost"):
        return None
    out = io.BytesIO()
    image.save(out, "PNG")

    class ImageHandler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(out.getvalue())))
            self.end_headers()
            self.wfile.write(out.getvalue())

    with ThreadingHTTPServer(("127.0.0.1", 0), ImageHandler) as web:
        threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
        try:
            answer = p.fresh(user([ImagePart(f"http://127.0.0.1:{web.server_port}/b.png")]))
        except RefusedError:
            return "refused"
        finally:
            web.shutdown()
    return True if p.scale.changed(p.ask(user("B")), answer) else "equal"


@check()
def odd(p: Instrument) -> Verdict:
    """Turned, transparent, gray, tiny and large images."""
    notes = [_rotation(p)]
    for name, note in (("transparent pixels", _transparency), ("1 x 1", _tiny), ("3840 x 2160", _large)):
        try:
            notes.append(f"{name}: {note(p)}")
        except RefusedError as error:
            notes.append(f"{name}: refused ({str(error)[:60]})")
    gray = images.pixels("B").convert("L")
    try:
        if p.changed(of(gray), of(gray.convert("RGB"))):
            text = "; ".join(["a gray image is not read as the same image in RGB", *notes])
            return p.red_if(p.scale.sees, text, of(gray), of(gray.convert("RGB")))
    except RefusedError as error:
        notes.append(f"gray: refused ({str(error)[:60]})")
    return Verdict(Status.NOTE, "; ".join(notes))


def _rotation(p: Instrument) -> str:
    image, exif = images.pixels("B"), Image.Exif()
    exif[ORIENTATION] = TURNED
    tagged, plain, turned = of(image, exif=exif, **JPEG), of(image, **JPEG), of(image.rotate(-90), **JPEG)
    if not p.changed(plain, turned):
        return "EXIF rotation: unknown"
    applied = p.distance(tagged, turned) < p.distance(tagged, plain)
    return f"EXIF rotation: {'applied' if applied else 'ignored'}"


def _transparency(p: Instrument) -> str:
    image = images.pixels("C")
    clear = image.convert("RGBA")
    clear.putalpha(0)
    references = {
        "on white": Image.new("RGB", image.size, "white"),
        "on black": Image.new("RGB", image.size, "black"),
        "read as opaque": image,
    }
    return _equal_to(p, of(clear), {name: of(other) for name, other in references.items()})


def _equal_to(p: Instrument, prompt: Prompt, references: dict[str, Prompt]) -> str:
    return next((name for name, other in references.items() if not p.changed(prompt, other)), "unknown")


def _tiny(p: Instrument) -> str:
    p.ask(of(Image.new("RGB", (1, 1), (200, 30, 30))))
    return "accepted"


def _large(p: Instrument) -> str:
    large = images.pixels("B").resize(LARGE, Image.Resampling.NEAREST)
    marked = large.copy()
    marked.paste((0, 0, 0) if sum(large.getpixel(MARK[:2])) > 380 else (255, 255, 255), MARK)  # type: ignore[arg-type]
    prompt = of(large, compress_level=1)
    tokens, without = p.ask(prompt).tokens, p.ask(user("")).tokens
    cost = f", {tokens - without} tokens" if tokens is not None and without is not None else ""
    is_visible = p.changed(prompt, of(marked, compress_level=1))
    return f"accepted{cost}; a mark of 100 x 100 is {'seen' if is_visible else 'lost in resizing'}"
