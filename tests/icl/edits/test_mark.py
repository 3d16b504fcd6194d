"""Marks change their boxes only, numbers are readable, and colors are mixed by the opacity."""

import numpy as np
import pytest
from PIL import Image as PILImage

from icl.edits.mark import MARK_COLORS, RegionMarks
from icl.errors import ConfigError
from icl.registry import build
from icl.testing import check_edit

GREY = PILImage.new("RGB", (96, 96), (100, 100, 100))
HALF = (0.0, 0.0, 0.5, 0.5)


def marked(**parameters: object) -> np.ndarray:
    return np.asarray(build("edit", {"name": "mark", **parameters}).apply_to_image(GREY)).astype(int)


@pytest.mark.parametrize("style", ["number", "box", "color"])
def test_a_mark_stays_in_its_box(style: str) -> None:
    changed = (marked(boxes=[HALF], style=style) != 100).any(-1)
    assert changed[:48, :48].any()
    assert not changed[48:].any()
    assert not changed[:, 48:].any()
    check_edit(RegionMarks((HALF,), style))  # type: ignore[arg-type]


def test_an_outline_leaves_the_content_and_a_number_writes_into_the_corner() -> None:
    box, number = marked(boxes=[HALF], style="box"), marked(boxes=[HALF], style="number")
    assert (box[5:40, 5:40] == 100).all()
    assert tuple(box[0, 0]) == MARK_COLORS["red"]
    assert (number[:20, :20] == 255).all(-1).sum() > 10
    assert (number[30:40, 30:40] == 100).all()


def test_every_number_looks_different() -> None:
    images = {marked(boxes=[HALF], numbers=[n]).tobytes() for n in range(1, 31)}
    assert len(images) == 30


def test_a_color_is_mixed_by_its_opacity() -> None:
    quarter = marked(boxes=[HALF], style="color", opacity=0.25)
    expected = 0.75 * 100 + 0.25 * np.array(MARK_COLORS["red"])
    assert np.abs(quarter[:48, :48] - expected).max() <= 1
    assert (marked(boxes=[HALF], style="color", opacity=0) == 100).all()


def test_wrong_boxes_and_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="left < right"):
        RegionMarks(((0.5, 0, 0.2, 1),))
    with pytest.raises(ConfigError, match="2 entries for 1 boxes"):
        RegionMarks((HALF,), numbers=(1, 2))


def test_a_mark_is_a_branch_of_a_contrast() -> None:
    node = {"change": {"name": "mark", "boxes": [HALF], "style": "color"}}
    strategy = build("strategy", {"name": "contrast", "branches": [node], "weights": [0.5, 0.5]})
    assert strategy.contrasts[0].edit == RegionMarks((HALF,), "color")
