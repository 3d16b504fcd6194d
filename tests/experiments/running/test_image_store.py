import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image as PILImage

from experiments.running import image_store
from experiments.running.image_store import LONGEST_SIDE, PREFETCH_ITEMS, ImageStore, prefetch_images
from icl.images import Image


def png(color: str, size: tuple[int, int] = (8, 4)) -> bytes:
    buffer = BytesIO()
    PILImage.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def image(tmp_path: Path) -> Callable[..., Image]:
    def make(color: str = "red", size: tuple[int, int] = (8, 4)) -> Image:
        path = tmp_path / f"{color}-{size[0]}x{size[1]}.png"
        path.write_bytes(png(color, size))
        return Image.from_path(path)

    return make


def test_items_come_in_order_and_are_read_ahead_by_a_fixed_number(image: Callable[..., Image]) -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for i in range(PREFETCH_ITEMS + 5):
            read.append(i)
            yield i

    prefetched = prefetch_images(items(), lambda i: [])
    assert next(prefetched) == 0
    assert read == list(range(PREFETCH_ITEMS + 1))
    assert list(prefetched) == list(range(1, PREFETCH_ITEMS + 5))


def test_images_are_decoded_by_threads_before_they_are_used_and_errors_come_later(
    image: Callable[..., Image], tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    good, broken = image(), Image.from_path(tmp_path / "broken.png")
    prefetched = prefetch_images([good, broken, 1, 2], lambda item: [item] if isinstance(item, Image) else [])
    assert next(prefetched) is good
    deadline = time.monotonic() + 20
    while "source_digest" not in vars(good) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert "source_digest" in vars(good)
    assert list(prefetched) == [broken, 1, 2]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_an_image_that_was_decoded_is_not_decoded_again(
    image: Callable[..., Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Image] = []
    monkeypatch.setattr(image_store, "_decode", decoded.append)
    done, fresh = image("red"), image("blue")
    done.source_digest  # noqa: B018
    assert list(prefetch_images([0], lambda _: [done, fresh])) == [0]
    assert decoded == [fresh]


def test_each_image_is_saved_once_and_large_ones_are_reduced(image: Callable[..., Image], tmp_path: Path) -> None:
    small, fits, large = image(), image("blue", (LONGEST_SIDE, 3)), image("green", (LONGEST_SIDE * 2, 4))
    store = ImageStore(tmp_path / "run" / "images")
    store.save([small, small, fits, large])
    store.close()
    sizes = {path.stem: PILImage.open(path).size for path in store.folder.iterdir()}
    assert sizes == {small.digest: (8, 4), fits.digest: (LONGEST_SIDE, 3), large.digest: (LONGEST_SIDE, 2)}
    assert large.open().size == (LONGEST_SIDE * 2, 4), "the cached image is as it was"
    assert store.used == sum(path.stat().st_size for path in store.folder.iterdir())
    times = {path: path.stat().st_mtime_ns for path in store.folder.iterdir()}
    again = ImageStore(store.folder)
    assert (again.digests, again.used) == (set(sizes), store.used)
    again.save([image(), large])
    again.close()
    assert {path: path.stat().st_mtime_ns for path in store.folder.iterdir()} == times


def test_saving_stops_at_the_limit(image: Callable[..., Image], tmp_path: Path) -> None:
    images = [image(color) for color in ("red", "green", "blue")]
    size = len(png("red"))
    store = ImageStore(tmp_path / "images", max_bytes=size)
    store.save(images)
    store.close()
    assert [path.stem for path in store.folder.iterdir()] == [images[0].digest]
    assert store.problem is None
    full = ImageStore(store.folder, max_bytes=store.used)
    full.save([images[1]])
    full.close()
    assert images[1].digest not in full.digests


def test_a_folder_that_cannot_be_written_is_a_problem_of_the_report_only(
    image: Callable[..., Image], tmp_path: Path
) -> None:
    store = ImageStore(tmp_path / "images")
    store.folder.rmdir()
    store.save([image()])
    store.thread.submit(lambda: None).result()
    assert (store.problem or "").startswith("no more images are saved for the report: ")
    store.folder.mkdir()
    store.save([image("blue")])
    store.close()
    assert list(store.folder.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes of this kind")
def test_a_pipe_in_the_place_of_an_image_is_replaced(image: Callable[..., Image], tmp_path: Path) -> None:
    saved = image()
    folder = tmp_path / "images"
    folder.mkdir()
    os.mkfifo(folder / f"{saved.digest}.png")
    store = ImageStore(folder)
    store.save([saved])
    store.close()
    assert (folder / f"{saved.digest}.png").is_file()
