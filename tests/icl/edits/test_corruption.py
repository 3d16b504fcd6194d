"""Tests of corruptions against the arithmetic of the paper's code."""

import io

import numpy as np
import pytest
from PIL import Image as PILImage

from icl.edits.corruption import BLUR, NOISE, QUALITY, Corruption, corrupt
from icl.images import Image

RNG = np.random.default_rng(0)
IMAGE = PILImage.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
GREY = PILImage.new("RGB", (64, 64), (128, 128, 128))


def pixels(kind, severity, image=IMAGE, seed=0):
    image = Image.from_pil(image, "an image")
    return np.asarray(corrupt(image, kind, severity, seed).open()).astype(float)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_noise_has_the_standard_deviation_of_its_severity(severity):
    noise = (pixels("noise", severity, GREY) - 128) / 255
    assert noise.std() == pytest.approx(NOISE[severity - 1], rel=0.03)
    assert abs(noise.mean()) < 0.005


def test_noise_is_one_draw_of_the_image_and_the_seed():
    one, three = ((pixels("noise", s, GREY) - 128) / NOISE[s - 1] for s in (1, 3))
    assert np.corrcoef(one.ravel(), three.ravel())[0, 1] > 0.98
    assert np.array_equal(pixels("noise", 3), pixels("noise", 3))
    assert not np.array_equal(pixels("noise", 3), pixels("noise", 3, seed=1))
    other = corrupt(Image.from_pil(GREY, "another image"), "noise", 3)
    assert not np.array_equal(np.asarray(other.open()), pixels("noise", 3, GREY))


def test_contrast_keeps_a_share_of_the_distance_from_the_mean():
    clean = np.asarray(IMAGE).astype(float)
    means = clean.mean((0, 1))
    assert pixels("contrast", 2) == pytest.approx((clean - means) * 0.3 + means, abs=0.51)


def test_blur_is_in_proportion_to_the_side():
    point = np.zeros((256, 256, 3), dtype=np.uint8)
    point[120:136, 120:136] = 255
    small = pixels("blur", 4, PILImage.fromarray(point).resize((64, 64), PILImage.Resampling.BOX))
    large = pixels("blur", 4, PILImage.fromarray(point))
    coarse = large.reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(coarse - small).max() < 40
    assert np.abs(small - np.asarray(PILImage.fromarray(point).resize((64, 64), PILImage.Resampling.BOX))).max() > 60
    spread = [pixels("blur", s, PILImage.fromarray(point[96:160, 96:160])).std() for s in range(1, 6)]
    assert spread == sorted(spread, reverse=True)
    assert list(BLUR) == sorted(BLUR)


def test_jpeg_equals_the_library_s_output_at_that_quality():
    buffer = io.BytesIO()
    IMAGE.save(buffer, "JPEG", quality=QUALITY[4])
    assert np.array_equal(pixels("jpeg", 5), np.asarray(PILImage.open(buffer)))


@pytest.mark.parametrize("kind", ["noise", "blur", "contrast", "jpeg"])
def test_a_higher_severity_is_farther_from_the_image_and_another_image(kind):
    clean = np.asarray(IMAGE).astype(float)
    assert np.array_equal(pixels(kind, 0), clean)
    far = [np.abs(pixels(kind, severity) - clean).mean() for severity in range(1, 6)]
    assert far == sorted(far)
    image = Image.from_pil(IMAGE)
    one, two = corrupt(image, kind, 1), corrupt(image, kind, 2)
    assert len({image.digest, one.digest, two.digest}) == 3
    assert one.source_digest == image.source_digest  # the leak check sees through it
    assert one.edits == (Corruption(kind, 1, one.edits[0].stream),)
