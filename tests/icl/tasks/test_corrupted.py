"""Tests of tasks under a domain shift."""

import io

import numpy as np
import pytest
from PIL import Image as PILImage

from icl.edits import Rotate
from icl.errors import ConfigError
from icl.images import Image
from icl.registry import build, describe
from icl.tasks.wrappers import BLUR, NOISE, QUALITY, Corruption, corrupt
from icl.testing.conformance import check_task

OF = {"name": "binding", "queries": 6}
SHARED = {"name": "existence", "queries": 8, "pool_size": 10}


def task(of=OF, **more):
    return build("task", {"name": "corrupted", "of": of, **more}, "x.yaml:2")


@pytest.mark.parametrize("of", [OF, SHARED, {"name": "matching", "queries": 6, "pool_size": 8}])
@pytest.mark.parametrize("where", ["query", "pool", "all"])
def test_it_keeps_the_promises_of_a_task(of, where):
    check_task(task(of, by="noise", where=where), queries=4)


@pytest.mark.parametrize(
    ("where", "queries", "pool"), [("query", True, False), ("pool", False, True), ("all", True, True)]
)
def test_where_says_whose_images_change(where, queries, pool):
    clean, corrupted = build("task", SHARED), task(SHARED, by="contrast", severity=5, where=where)
    for one, other, changed in (
        (clean.queries, corrupted.queries, where != "pool"),
        (clean.pool("").examples, corrupted.pool("").examples, where != "query"),
    ):
        for a, b in zip(one, other, strict=True):
            assert (a.id, a.question, a.answers, a.options, a.group) == (
                b.id,
                b.question,
                b.answers,
                b.options,
                b.group,
            )
            same = np.array_equal(np.asarray(a.images[0].open()), np.asarray(b.images[0].open()))
            assert same != changed
            assert b.domain == b.meta["domain"] == ("contrast 5" if changed else "clean")


def test_shared_pools_stay_one_object_and_have_another_digest():
    corrupted = task(SHARED, where="all")
    assert corrupted.pool("a") is corrupted.pool("b")
    assert corrupted.pool("a").digest != build("task", SHARED).pool("a").digest
    assert corrupted.pool("a").digest != task(SHARED, where="all", severity=4).pool("a").digest
    assert task(SHARED, where="query").pool("a").digest == build("task", SHARED).pool("a").digest


def test_severity_0_is_the_task_itself():
    corrupted, clean = task(severity=0), build("task", OF)
    assert corrupted.title == clean.title
    assert [q.images for q in corrupted.queries] == [q.images for q in clean.queries]
    assert task(by="blur", severity=2).title == "binding · 2-way · blur 2"


def test_an_image_in_both_query_and_pool_is_still_the_same_image():
    corrupted = task({"name": "conflict", "queries": 6, "pool_size": 6}, where="query")
    image, recognize = (q.images[0] for q in corrupted.queries[1:3])
    assert image.digest == recognize.digest
    assert image.source_digest == image.digest or image.edits


def test_it_is_described_with_the_task_in_it_and_refuses_other_severities():
    node = describe(task())
    assert (node["of"]["name"], node["severity"]) == ("binding", 3)
    assert describe(build("task", node)) == node
    with pytest.raises(ConfigError, match="severity"):
        task(severity=6)
    with pytest.raises(ConfigError, match="no task named 'bindng'"):
        task({"name": "bindng"})


def test_any_edit_corrupts_and_names_the_domain():
    corrupted, clean = task(SHARED, by={"name": "rotate", "degrees": 90}), build("task", SHARED)
    check_task(corrupted, queries=4)
    for one, other in zip(corrupted.queries, clean.queries, strict=True):
        assert one.images == tuple(image.edit(Rotate(90.0)) for image in other.images)
    assert {query.domain for query in corrupted.queries} == {"rotate (degrees 90)"}
    assert corrupted.pool("").digest == clean.pool("").digest
    assert task(SHARED, by="flip").title.endswith(" · flip")
    assert task(SHARED, by={"name": "blur", "radius": 2}).title != task(SHARED, by="blur").title
    assert describe(build("task", describe(corrupted))) == describe(corrupted)


def test_what_an_edit_draws_belongs_to_the_image_and_the_seed():
    one, two, other = (task(SHARED, by="random_colors", where="all", seed=seed).queries for seed in (0, 0, 1))
    digests = [[query.images[0].digest for query in queries] for queries in (one, two, other)]
    assert digests[0] == digests[1]
    assert not {*digests[0]} & {*digests[2]}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (
            {"by": "nois"},
            r"x\.yaml:2: .*no corruption named 'nois'\. Did you mean 'noise'\? \(icl ls edit\)",
        ),
        ({"by": {"name": "blurr"}}, "no edit named 'blurr'. Did you mean 'blur'"),
        ({"by": "flip", "severity": 4}, "an edit has no severity but its own parameters. Remove severity: 4"),
    ],
)
def test_settings_without_effect_are_reported(more, why):
    with pytest.raises(ConfigError, match=why):
        task(**more)


def test_severity_0_of_an_edit_is_nothing_too():
    assert [q.images for q in task(by="flip", severity=0).queries] == [q.images for q in build("task", OF).queries]


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
