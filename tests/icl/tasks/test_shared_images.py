"""Examples on both sides of a division: an image is the same under another file name and under an edit."""

from pathlib import Path

import pytest
from PIL import Image as PILImage

from icl.edits import Blank
from icl.errors import DataError
from icl.images import Image
from icl.tasks import check_no_shared_image, image_digests
from icl.types import Example

NAMES = "test queries", "training examples"


def example(name: str, image: Image) -> Example:
    return Example(name, (image,), "Which color?", ("red",))


def test_the_same_pixels_in_other_files_and_under_edits_are_the_same_image(tmp_path: Path) -> None:
    pixels = PILImage.new("RGB", (3, 3), "red")
    for suffix in ("png", "bmp"):
        pixels.save(tmp_path / f"{suffix}.{suffix}")
    trained = example("trained", Image.from_path(tmp_path / "png.png"))
    copies = {
        "another file": Image.from_path(tmp_path / "bmp.bmp"),
        "edited": Image.from_path(tmp_path / "bmp.bmp").edit(Blank()),
        "in memory": Image.from_pil(pixels.copy()),
    }
    other = example("other", Image.from_pil(PILImage.new("RGB", (3, 3), "blue")))
    for name, image in copies.items():
        assert image_digests(example(name, image)) == image_digests(trained), name
        with pytest.raises(DataError, match=rf"^task: 1 of 2 test queries .*; '{name}' and 'trained' have the same"):
            check_no_shared_image([trained], [other, example(name, image)], "task", NAMES, "Take another split.")
    check_no_shared_image([trained], [other], "task", NAMES, "")
