"""Paths of tasks are relative to the experiment file under which the task was made."""

import json

import pytest
from PIL import Image as PILImage

from icl.loading import component_search_folder
from icl.registry import build


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
