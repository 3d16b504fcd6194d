"""Lists that a cell has as text."""

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset, Image, List, load_from_disk
from PIL import Image as PILImage

from icl.errors import DataError, ImageError
from icl.loading import component_search_folder
from icl.registry import build
from icl.tasks import cell_values as module
from icl.tasks.cell_values import parse_list
from icl.tasks.source import encoded


def test_a_list_as_text_has_its_items() -> None:
    assert parse_list("['open', 'a, b', 3]") == ["open", "a, b", 3]


@pytest.mark.parametrize(
    "text", ["open", "[sic] open", "[1], [2]", "[", "[" + "-" * 5000 + "1]", "[" * 500 + "]" * 500]
)
def test_any_other_text_is_no_list(text: str) -> None:
    assert parse_list(text) is None


def write_isekai(folder, level: int) -> None:
    PILImage.new("RGB", (8, 8), (level, 7, 9)).save(folder / "a.png")
    row = {"image_name": "a.png", "label_name": "one", "positive_list": ["a.png"], "positive_promt": "one"}
    (folder / "x.json").write_text(json.dumps({**row, "negative_list": ["a.png"], "negative_promt": "two"}))


def write_vl_icl(folder, level: int) -> None:
    PILImage.new("RGB", (8, 8), (level, 7, 9)).save(folder / "a.png")
    (folder / "x.json" / "clevr").mkdir(parents=True)
    PILImage.new("RGB", (8, 8), (level, 7, 9)).save(folder / "x.json" / "a.png")
    for name in ("query.json", "support.json"):
        (folder / "x.json" / "clevr" / name).write_text('[{"image": "a.png", "question": "q", "answer": "a"}]')


@pytest.mark.parametrize(
    ("write", "node"),
    [
        (write_isekai, {"name": "isekai", "path": "x.json", "images": "."}),
        (write_vl_icl, {"name": "vl_icl", "path": "x.json", "task": "clevr"}),
    ],
)
def test_equal_tasks_of_two_folders_have_pools_of_their_own(write, node, tmp_path) -> None:
    for level in (20, 200):
        folder = tmp_path / str(level)
        folder.mkdir()
        write(folder, level)
        with component_search_folder(folder):
            task = build("task", node)
        query = task.queries[0]
        colors = [image.open().getpixel((0, 0)) for e in (query, *task.pool(query.id).examples) for image in e.images]
        assert set(colors) == {(level, 7, 9)}


# Frames of videos: which ones, decoded once, and sentences for what is no video. PyAV is replaced by a fake of its
# interface unless it is installed.


class Container:
    """A video of frames whose red channel is ten times their number."""

    def __init__(self, path: str, opened: list[str], header: bool) -> None:
        opened.append(path)
        self.total = int(Path(path).read_bytes() or 0)
        self.streams = SimpleNamespace(video=[SimpleNamespace(frames=self.total if header else 0)])

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *args: Any) -> None: ...

    def decode(self, video: int) -> Any:
        for i in range(self.total):
            yield SimpleNamespace(to_image=lambda i=i: PILImage.new("RGB", (8, 8), (10 * i, 0, 0)))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths that the fake PyAV opened. Files named `bare` have no number of frames in their header."""
    paths: list[str] = []
    fake: Any = ModuleType("av")
    fake.__spec__ = ModuleSpec("av", None)
    fake.error = SimpleNamespace(FFmpegError=RuntimeError)

    def open_(path: str) -> Container:
        if Path(path).read_bytes() == b"text":
            raise RuntimeError("invalid data")
        return Container(path, paths, "bare" not in path)

    fake.open = open_
    monkeypatch.setitem(sys.modules, "av", fake)
    module._decoded.cache_clear()
    return paths


def hub(folder: Any, **more: Any) -> Any:
    return build("task", {"name": "hub", "path": str(folder / "rows.jsonl"), "pool_fraction": 0,
                          "columns": {"video": "clip", "question": "q", "answer": "a"}, **more})  # fmt: skip


def write(folder: Any, *names: str) -> None:
    (folder / "rows.jsonl").write_text("\n".join(json.dumps({"clip": n, "q": "what?", "a": "x"}) for n in names))


def levels(example: Any) -> list[int]:
    return [image.open().getpixel((0, 0))[0] // 10 for image in example.images]


@pytest.mark.parametrize("name", ["clip.mp4", "bare.mp4"])
def test_the_frames_are_the_middles_of_equal_parts_and_decoded_once(
    tmp_path: Any, opened: list[str], name: str
) -> None:
    (tmp_path / name).write_text("12")
    write(tmp_path, name)
    (query,) = hub(tmp_path).queries
    assert not opened
    assert levels(query) == [1, 3, 5, 7, 9, 11]
    assert len(opened) == (2 if name == "bare.mp4" else 1)
    assert levels(hub(tmp_path, frames=2).queries[0]) == [3, 9]


def test_a_short_video_repeats_frames_and_rows_of_a_video_are_a_group(tmp_path: Any, opened: list[str]) -> None:
    (tmp_path / "a.mp4").write_text("2")
    (tmp_path / "b.mp4").write_text("5")
    write(tmp_path, "a.mp4", "a.mp4", "b.mp4", "b.mp4")
    task = hub(tmp_path, frames=4, pool_fraction=0.5)
    assert len({query.group for query in task.queries}) == 1
    assert sorted({tuple(levels(e)) for e in (*task.queries, *task.pool("").examples)}) == [(0, 0, 1, 1), (0, 1, 3, 4)]


def test_what_is_no_video_and_a_missing_package_are_sentences(
    tmp_path: Any, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.mp4").write_text("text")
    (tmp_path / "b.mp4").write_text("0")
    write(tmp_path, "a.mp4", "b.mp4")
    one, other = sorted(hub(tmp_path).queries, key=lambda e: e.id)
    with pytest.raises(ImageError, match=r"a\.mp4 .*not a video that can be decoded \(invalid data\)"):
        one.images[0].open()
    with pytest.raises(ImageError, match=r"b\.mp4 .*no frame that can be decoded"):
        other.images[0].open()
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'mm-icl\[video\]'"):
        _ = hub(tmp_path).queries


def test_a_data_set_with_lists_of_images_is_not_copied(tmp_path: Path) -> None:
    Dataset.from_list([{"image": [PILImage.new("RGB", (8, 8), (i, 1, 2))]} for i in range(4)]).save_to_disk(tmp_path)
    data = load_from_disk(str(tmp_path)).select([2, 1])
    stored = encoded(data)
    assert stored.cache_files == data.cache_files
    assert [row["image"][0]["bytes"] for row in stored] == [
        row["image"][0]["bytes"] for row in data.cast_column("image", List(Image(decode=False)))
    ]
