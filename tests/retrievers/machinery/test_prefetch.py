"""Prefetching keeps the order, and an error is raised at the batch of its image."""

from collections.abc import Callable
from typing import Any

import pytest

from icl.errors import ImageError
from icl.images import Image
from retrievers.machinery.prefetch import decode_batches


@pytest.mark.parametrize("count", [0, 1, 3, 4, 10])
def test_batches_are_in_order(count: int, color: Callable[..., Any]) -> None:
    images = [color("red", i) for i in range(count)]
    batches = list(decode_batches(images, 3))
    assert [len(batch) for batch in batches] == [min(3, count - start) for start in range(0, count, 3)]
    flat = [pil_image.tobytes() for batch in batches for pil_image in batch]
    assert flat == [image.open().tobytes() for image in images]


def test_a_broken_image_fails_in_its_own_batch(color: Callable[..., Any]) -> None:
    images = [*(color("red", i) for i in range(4)), Image.from_bytes(b"no image", "broken")]
    batches = decode_batches(images, 2)
    assert len(next(batches)) == len(next(batches)) == 2
    with pytest.raises(ImageError, match="broken"):
        next(batches)
