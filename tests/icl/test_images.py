"""Tests of images: digests, laziness, edits, and unreadable files."""

import io
import pickle
import random
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Barrier

import numpy as np
import pytest
from PIL import Image as PILImage

from icl import images
from icl.edits import Blank, DiffusionNoise, Edit, diffusion_scales
from icl.errors import ImageError
from icl.images import Image
from icl.streams import StreamKey


def noise(seed: int = 0, size: tuple[int, int] = (12, 9)) -> PILImage.Image:
    return PILImage.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def encoded(image: PILImage.Image, kind: str = "PNG", **more) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def test_equal_pixels_are_one_image_whatever_they_are_stored_in(tmp_path):
    image = noise()
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.bmp")
    same = [
        Image.from_path(tmp_path / "a.png"),
        Image.from_path(tmp_path / "b.bmp"),
        Image.from_bytes(encoded(image, "TIFF")),
        Image.from_pil(image.convert("RGBA")),
        Image.from_source(lambda: image, "thunk"),
    ]
    assert len({p.digest for p in same}) == 1
    assert same[0] == same[4]
    assert Image.from_pil(noise(1)) != same[0]


def test_the_shape_is_part_of_the_digest():
    flat = PILImage.new("RGB", (4, 9), "red")
    assert Image.from_pil(flat).digest != Image.from_pil(PILImage.new("RGB", (9, 4), "red")).digest


def test_a_image_is_opened_when_it_is_looked_at_and_decoded_once():
    calls = []
    image = Image.from_source(lambda: calls.append(1) or noise(), "counted")
    repr(image)
    edited = image.edit(Blank())
    assert calls == []
    assert edited.open().size == image.open().size == (12, 9)
    assert edited.digest != image.digest
    assert calls == [1]


def test_decoded_images_are_bounded_in_bytes():
    keep = images._Decoded(limit=3 * 12 * 9 * 3)
    some = [Image.from_pil(noise(i)) for i in range(5)]
    for image in some:
        keep.get(image)
    assert len(keep.images) == 3
    assert keep.images.used == 3 * 12 * 9 * 3
    assert list(keep.images.items) == [p.load for p in some[2:]]
    keep.get(some[2])
    keep.get(some[0])
    assert some[2].load in keep.images.items


def test_a_loader_may_be_any_callable():
    @dataclass
    class Loader:
        level: int

        def __call__(self):
            return PILImage.new("RGB", (2, 2), (self.level,) * 3)

    assert Image.from_source(Loader(3), "mine").open().getpixel((0, 0)) == (3, 3, 3)


def test_edits_have_their_own_digest_and_are_ordered():
    image = Image.from_pil(noise())
    one, two = Blank(1, 2, 3), Blank(4, 5, 6)
    digests = {p.digest for p in (image, image.edit(one), image.edit(two), image.edit(one, two), image.edit(two, one))}
    assert len(digests) == 5
    assert image.edit(one).edit(two).digest == image.edit(one, two).digest
    assert image.edit(one).source_digest == image.source_digest


def test_an_edit_acts_on_the_image_and_leaves_the_original():
    image = Image.from_pil(noise())
    assert np.asarray(image.edit(Blank(1, 2, 3)).open()).reshape(-1, 3).tolist() == [[1, 2, 3]] * 108
    assert np.array_equal(np.asarray(image.open()), np.asarray(noise()))


def test_edits_of_processed_pixels_stand_apart():
    noisy = DiffusionNoise(500)
    image = Image.from_pil(noise()).edit(Blank(), noisy)
    assert image.pixel_value_edits == (noisy,)


def test_noise_is_fixed_by_seed_query_and_place():
    import torch

    def noised(key, place):
        return DiffusionNoise(500).bind(key, place).apply_to_pixel_values(torch.zeros(3, 8, 8))

    first = noised(StreamKey(0, "q"), "query.image[0]")
    assert torch.equal(first, noised(StreamKey(0, "q"), "query.image[0]"))
    for other in (
        (StreamKey(1, "q"), "query.image[0]"),
        (StreamKey(0, "r"), "query.image[0]"),
        (StreamKey(0, "q"), "x"),
    ):
        assert not torch.equal(first, noised(*other))


@pytest.mark.parametrize(
    ("step", "keep", "spread"), [(500, 0.863, 0.505), (700, 0.593, 0.805), (900, 0.365, 0.931), (999, 0.285, 0.959)]
)
def test_diffusion_noise_has_the_released_scales(step, keep, spread):
    assert diffusion_scales(step) == pytest.approx((keep, spread), abs=1e-3)


def test_the_base_edit_changes_nothing():
    import torch

    image, pixels = noise(), torch.ones(2)
    assert Edit().apply_to_image(image) is image
    assert Edit().apply_to_pixel_values(pixels) is pixels


def test_transparent_pixels_lie_on_white():
    image = PILImage.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    for data in (encoded(image), encoded(image.convert("P"), "GIF", transparency=0)):
        assert Image.from_bytes(data).open().mode == "RGB"
    assert [Image.from_bytes(encoded(image)).open().getpixel((x, 0)) for x in (0, 1)] == [
        (255, 255, 255),
        (255, 0, 0),
    ]


def test_a_turned_photograph_stands_upright():
    image = PILImage.new("RGB", (8, 4), "red")
    exif = PILImage.Exif()
    exif[0x0112] = 6
    assert Image.from_bytes(encoded(image, "JPEG", exif=exif)).open().size == (4, 8)


def test_sixteen_bits_are_scaled_and_not_clipped():
    deep = PILImage.fromarray((np.arange(16, dtype=np.uint16) * 4369).reshape(4, 4))
    pixels = np.asarray(Image.from_bytes(encoded(deep)).open())[..., 0].reshape(-1)
    assert pixels.tolist() == pytest.approx(np.arange(16) * 17, abs=1)


def test_floating_point_pixels_are_refused():
    with pytest.raises(ImageError, match="image memory has pixels of unknown range"):
        Image.from_pil(PILImage.new("F", (2, 2))).open()


def test_what_cannot_be_read_is_an_image_error_that_names_it(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "cut.png").write_bytes(encoded(noise(size=(80, 80)))[:200])
    for name, says in (
        ("no.png", "does not exist"),
        ("text.png", "not an image"),
        ("cut.png", "cannot be read"),
        (".", "cannot be read"),
    ):
        with pytest.raises(ImageError, match=says) as error:
            _ = Image.from_path(tmp_path / name).digest
        assert str(tmp_path) in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_damaged_bytes_never_raise_anything_else(kind):
    rng, whole = random.Random(0), encoded(noise(size=(40, 30)), kind)
    for _ in range(60):
        data = bytearray(whole[: rng.randrange(1, len(whole))] if rng.random() < 0.4 else whole)
        for _ in range(rng.choice((1, 4, 16))):
            data[rng.randrange(min(len(data), 80))] = rng.randrange(256)
        with suppress(ImageError):
            _ = Image.from_bytes(bytes(data)).digest


def test_a_gigantic_image_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(ImageError, match=r"12 x 9 pixels, more than the limit of 100\. Make it smaller"):
        Image.from_pil(noise(), "scan.tif").open()


def test_images_travel_to_other_processes(tmp_path):
    noise().save(tmp_path / "a.png")
    for image in (Image.from_path(tmp_path / "a.png").edit(Blank()), Image.from_bytes(encoded(noise()))):
        again = pickle.loads(pickle.dumps(image))  # noqa: S301
        assert again.digest == image.digest


def test_images_without_a_name_are_identified_by_their_pixels():
    named, other = Image.from_pil(noise(), "a"), Image.from_pil(noise(1))
    assert named.identity == "a"
    assert other.identity == other.source_digest != Image.from_pil(noise(2)).identity


def test_a_notebook_shows_the_edited_image():
    png = Image.from_pil(noise()).edit(Blank(9, 9, 9))._repr_png_()
    assert PILImage.open(io.BytesIO(png)).getpixel((0, 0)) == (9, 9, 9)


@pytest.mark.parametrize("kind", [RuntimeError, NotImplementedError, EOFError, IndexError, OverflowError, struct.error])
def test_whatever_a_decoder_trips_over_is_one_unreadable_image(kind):
    def load():
        raise kind("Failed to decode image")

    with pytest.raises(ImageError, match=r"image a\.avif cannot be read: Failed to decode image"):
        Image.from_source(load, "a.avif").open()


def test_a_images_size_is_read_from_its_head():
    file = io.BytesIO()
    PILImage.new("1", (30_000, 2_000)).save(file, "PNG")
    cut = Image.from_bytes(file.getvalue()[:200], "cut")
    assert cut.size == (30_000, 2_000)
    with pytest.raises(ImageError, match="image cut "):
        cut.open()
    with pytest.raises(ImageError, match="image nothing is not an image"):
        _ = Image.from_bytes(b"", "nothing").size


@pytest.mark.parametrize("name", ["drawing.eps", "photo.png"])
def test_no_file_starts_the_program_of_its_format(tmp_path, monkeypatch, name):
    started = []
    monkeypatch.setattr("subprocess.Popen", lambda *words, **more: started.append(words))
    monkeypatch.setattr("PIL.EpsImagePlugin.has_ghostscript", lambda: True)
    (tmp_path / name).write_bytes(encoded(noise(), "EPS"))
    for image in (Image.from_path(tmp_path / name), Image.from_bytes(encoded(noise(), "EPS"))):
        with pytest.raises(ImageError, match="is not an image in one of the formats PNG, JPEG"):
            image.open()
    assert not started


def test_two_threads_decode_two_images_at_once() -> None:
    both = Barrier(2, timeout=10)

    def load() -> PILImage.Image:
        both.wait()
        return PILImage.new("RGB", (2, 2))

    two = [Image.from_source(load, name) for name in ("one", "two")]
    with ThreadPoolExecutor(2) as threads:
        digests = list(threads.map(lambda image: image.digest, two))
    assert digests == [Image.from_pil(PILImage.new("RGB", (2, 2))).digest] * 2
