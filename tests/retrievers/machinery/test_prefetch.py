"""Decoding ahead keeps the order, and an error comes where its picture stands."""

from collections.abc import Callable
from typing import Any

import pytest

from icl.errors import PictureError
from icl.images import Picture
from retrievers.machinery.prefetch import decoded


@pytest.mark.parametrize("count", [0, 1, 3, 4, 10])
def test_batches_are_in_order(count: int, colour: Callable[..., Any]) -> None:
    pictures = [colour("red", i) for i in range(count)]
    batches = list(decoded(pictures, 3))
    assert [len(batch) for batch in batches] == [min(3, count - start) for start in range(0, count, 3)]
    flat = [pil_image.tobytes() for batch in batches for pil_image in batch]
    assert flat == [picture.open().tobytes() for picture in pictures]


def test_a_broken_picture_fails_in_its_own_batch(colour: Callable[..., Any]) -> None:
    pictures = [*(colour("red", i) for i in range(4)), Picture.from_bytes(b"no picture", "broken")]
    batches = decoded(pictures, 2)
    assert len(next(batches)) == len(next(batches)) == 2
    with pytest.raises(PictureError, match="broken"):
        next(batches)
