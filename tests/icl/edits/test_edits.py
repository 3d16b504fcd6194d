"""Effect of each edit on pixels, random edits that belong to the prompt, and distinct digests."""

import numpy as np
import pytest
from PIL import Image as PILImage

from icl import edits
from icl.errors import ConfigError
from icl.images import Image
from icl.registry import build
from icl.streams import StreamKey
from icl.types import Part, Prompt, Turn

COUNTED = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)  # 12 wide, 8 high
KEY = StreamKey(0, "q")


def image(pixels: np.ndarray = COUNTED) -> Image:
    return Image.from_pil(PILImage.fromarray(pixels))


def after(edit: edits.Edit, pixels: np.ndarray = COUNTED) -> np.ndarray:
    return np.asarray(image(pixels).edit(edit).open())


def test_mean_color_by_hand() -> None:
    """Reds 10 and 20, greens 0 and 1 (.5 is rounded to the even 0), blues 255 and 0 (127.5 to the even 128)."""
    pixels = np.array([[[10, 0, 255], [20, 1, 0]]], dtype=np.uint8)
    assert after(edits.MeanColor(), pixels).tolist() == [[[15, 0, 128]] * 2]


def test_shuffled_patches_have_the_same_pixels_in_other_places() -> None:
    shuffled = after(edits.ShuffledPatches(grid=2).bind(KEY, "p"))
    blocks = {COUNTED[y : y + 4, x : x + 6].tobytes() for y in (0, 4) for x in (0, 6)}
    assert {shuffled[y : y + 4, x : x + 6].tobytes() for y in (0, 4) for x in (0, 6)} == blocks
    orders = {after(edits.ShuffledPatches(2).bind(StreamKey(0, str(i)), "p")).tobytes() for i in range(20)}
    assert len(orders) > 5


def test_patches_that_do_not_divide_a_side_keep_the_rest() -> None:
    shuffled = after(edits.ShuffledPatches(grid=5).bind(KEY, "p"))  # patches of 2 x 1 pixels: 10 x 5 of 12 x 8
    assert (shuffled[5:] == COUNTED[5:]).all()
    assert (shuffled[:, 10:] == COUNTED[:, 10:]).all()
    assert not (shuffled == COUNTED).all()


def test_crop_shows_the_box_at_the_images_size() -> None:
    halves = np.zeros((8, 12, 3), dtype=np.uint8)
    halves[:, 6:] = 200
    assert (after(edits.Crop(left=0.5), halves) == 200).all()
    assert after(edits.Crop(left=0.5), halves).shape == (8, 12, 3)


def test_a_region_is_masked_and_the_rest_is_as_it_was() -> None:
    masked = after(edits.RegionMask(0.25, 0.5, 0.75, 1.0, red=7))
    assert (masked[4:, 3:9] == [7, 0, 0]).all()
    untouched = np.ones((8, 12), dtype=bool)
    untouched[4:, 3:9] = False
    assert (masked[untouched] == COUNTED[untouched]).all()


def test_the_smallest_box_has_a_pixel() -> None:
    assert edits.RegionMask(0.999, 0.999, 1.0, 1.0).of(PILImage.new("RGB", (12, 8))) == (11, 7, 12, 8)


@pytest.mark.parametrize("kind", [edits.Crop, edits.RegionMask])
def test_a_box_turned_around_is_an_error(kind: type[edits.Box]) -> None:
    with pytest.raises(ConfigError, match="left < right"):
        kind(left=0.5, right=0.5)


def test_flips_and_half_a_turn() -> None:
    assert (after(edits.Flip("horizontal")) == COUNTED[:, ::-1]).all()
    assert (after(edits.Flip("vertical")) == COUNTED[::-1]).all()
    assert (after(edits.Rotate(180)) == COUNTED[::-1, ::-1]).all()


def test_colors_by_hand() -> None:
    """Half the brightness of (200, 100, 40); no saturation is its gray; a third of the circle turns red to green."""
    one = np.array([[[200, 100, 40]]], dtype=np.uint8)
    assert after(edits.Color(brightness=0.5), one).tolist() == [[[100, 50, 20]]]
    gray = after(edits.Color(saturation=0.0), one)[0, 0].tolist()
    assert len(set(gray)) == 1
    assert after(edits.Color(hue=1 / 3), np.array([[[255, 0, 0]]], dtype=np.uint8)).tolist() == [[[0, 255, 0]]]
    assert (after(edits.Color()) == COUNTED).all()


def test_blur_spreads_a_point() -> None:
    point = np.zeros((9, 9, 3), dtype=np.uint8)
    point[4, 4] = 255
    blurred = after(edits.Blur(1.0), point)
    assert 0 < blurred[4, 5, 0] < blurred[4, 4, 0] < 255


def test_varied_draws_all_six_kinds_and_belongs_to_the_prompt() -> None:
    bound = [edits.RandomAugmentation().bind(StreamKey(0, str(i)), "query.image[0]") for i in range(60)]
    assert {(type(v.change), getattr(v.change, "axis", "")) for v in bound} == {
        (edits.Flip, "horizontal"),
        (edits.Flip, "vertical"),
        (edits.Rotate, ""),
        (edits.Color, ""),
        (edits.Blur, ""),
        (edits.Crop, ""),
    }
    assert bound[3] == edits.RandomAugmentation().bind(StreamKey(0, "3"), "query.image[0]")
    assert all(after(v).shape == COUNTED.shape for v in bound)


def test_varied_draws_strengths_from_their_whole_ranges() -> None:
    changes = [edits.RandomAugmentation().bind(StreamKey(0, str(i)), "p").change for i in range(300)]
    colors = [change for change in changes if isinstance(change, edits.Color)]
    crops = [change for change in changes if isinstance(change, edits.Crop)]
    for values, low, high in (
        ([c.brightness for c in colors], 0.4, 1.6),
        ([c.contrast for c in colors], 0.4, 1.6),
        ([c.saturation for c in colors], 0.4, 1.6),
        ([c.hue for c in colors], -0.5, 0.5),
        ([change.degrees for change in changes if isinstance(change, edits.Rotate)], -180, 180),
        ([change.radius for change in changes if isinstance(change, edits.Blur)], 1.5, 2.0),
        ([c.left for c in crops], 0.0, 0.3),
        ([c.top for c in crops], 0.0, 0.3),
        ([c.right - c.left for c in crops], 0.5, 0.7),
        ([c.bottom - c.top for c in crops], 0.5, 0.7),
    ):
        edge = (high - low) / 8
        assert low - 1e-9 <= min(values) < low + edge
        assert high - edge < max(values) <= high + 1e-9


def test_draws_are_pinned() -> None:
    """A change of these changes every run ever made."""
    unbound = (edits.ShuffledPatches(), edits.RandomColors(), edits.DiffusionNoise())
    streams = [edit.bind(KEY, "p").stream for edit in unbound]
    assert streams == [6178256140989923654, 3348939391167084363, 6525547216234770415]
    changes = {str(i): edits.RandomAugmentation().bind(StreamKey(0, str(i)), "p").change for i in (1, 4)}
    assert changes == {
        "1": edits.Rotate(165.668),
        "4": edits.Color(1.163, 0.862, 1.504, -0.175),
    }


def test_diffusion_scales_are_those_of_the_published_schedule() -> None:
    betas = 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (0.5e-2 - 1e-5) + 1e-5
    abar = np.cumprod(1 - betas)
    for step in (0, 1, 500, 999):
        assert edits.diffusion_scales(step) == pytest.approx((abar[step] ** 0.5, (1 - abar[step]) ** 0.5), abs=1e-9)
    assert edits.diffusion_scales(500) == pytest.approx((0.8630, 0.5052), abs=1e-4)
    assert edits.diffusion_scales(999)[1] == pytest.approx(0.9585, abs=1e-4)


def test_diffusion_noise_has_its_scales_and_is_the_prompts_own() -> None:
    import torch

    edit = edits.DiffusionNoise(500).bind(KEY, "p")
    dark, bright = (edit.apply_to_pixel_values(torch.full((3, 64, 64), value)) for value in (0.0, 2.0))
    torch.testing.assert_close(bright - dark, torch.full((3, 64, 64), 2 * 0.8630171), rtol=0, atol=1e-5)
    assert float(dark.mean()) == pytest.approx(0, abs=0.02)
    assert float(dark.std()) == pytest.approx(0.5052, abs=0.02)
    assert edit.apply_to_pixel_values(torch.zeros(2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert not torch.equal(
        dark, edits.DiffusionNoise(500).bind(KEY, "other").apply_to_pixel_values(torch.zeros(3, 64, 64))
    )


def test_a_made_up_image_has_nothing_of_this_one() -> None:
    one, other = (after(edits.RandomColors().bind(KEY, "p"), pixels) for pixels in (COUNTED, COUNTED[::-1].copy()))
    assert (one == other).all()
    assert (one != after(edits.RandomColors().bind(StreamKey(0, "r"), "p"))).any()
    assert one.std() > 20


def test_a_replacement_image_is_identified_by_its_digest() -> None:
    red = Image.from_pil(PILImage.new("RGB", (3, 3), "red"))
    changed = image().edit(edits.ReplacementImage(red))
    assert changed.open().tobytes() == red.open().tobytes()
    blue = Image.from_pil(PILImage.new("RGB", (3, 3), "blue"))
    assert len({changed.digest, image().edit(edits.ReplacementImage(blue)).digest, image().digest}) == 3


RANDOM = [edits.ShuffledPatches(), edits.RandomAugmentation(), edits.RandomColors(), edits.DiffusionNoise()]
FIXED = [edits.Blank(), edits.MeanColor(), edits.Crop(0.1), edits.RegionMask(0.1), edits.Flip(), edits.Rotate(20),
         edits.Color(hue=0.2), edits.Blur()]  # fmt: skip


@pytest.mark.parametrize("edit", [*RANDOM, *FIXED], ids=lambda edit: type(edit).__name__)
def test_descriptions_distinguish_edits_and_are_reproducible(edit: edits.Edit) -> None:
    def edited(query: str) -> Image:
        prompt = Prompt((Turn("user", (Part(image(), "query.image[0]"),)),), StreamKey(0, query))
        return prompt.edit(edit).images[0]

    assert edited("q") == edited("q")
    assert edited("q").digest != image().digest
    assert (edited("q") != edited("r")) == (edit in RANDOM)
    assert edited("q").open().tobytes() == edited("q").open().tobytes()


@pytest.mark.parametrize(
    "node", [{"name": "random_colors", "patches": 257}, {"name": "shuffled_patches", "grid": 10**9}]
)
def test_patches_are_no_more_than_memory_has_room_for(node):
    with pytest.raises(ConfigError, match="less than or equal to 256"):
        build("edit", node)
