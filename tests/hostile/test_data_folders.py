"""A data folder of a stranger names files outside of it, and addresses. They are refused by a sentence."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, Dataset, Features, Image, Value
from endpoint_server import Server
from PIL import Image as PILImage

from icl.errors import DataError, ICLError
from icl.registry import build

ROWS = "".join(json.dumps({"question": f"secret q{i}", "answer": "yes"}) + "\n" for i in range(8))
TEXTS = {"question": "question", "answer": "answer"}
IMAGES = {**TEXTS, "image": "image"}


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the reader's with rows and an image, beside the stranger's folder `data`."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "rows.jsonl").write_text(ROWS)
    PILImage.new("RGB", (8, 8), (255, 0, 0)).save(folder / "me.png")
    (tmp_path / "data").mkdir()
    return folder


def open_queries(columns: dict[str, str], split: str = "test", **keys: object) -> list[str]:
    """The questions of the folder, after its images are opened."""
    task = build(
        "task", {"name": "hub", "path": "data", "split": split, "columns": columns, "pool_fraction": 0, **keys}
    )
    for example in task.queries:
        for image in example.images:
            image.open()
    return [example.question for example in task.queries]


@pytest.mark.parametrize("place", ["file", "folder", "base"])
def test_links_to_images_outside_are_refused(place: str, private: Path) -> None:
    (Path("data") / "pics").mkdir(exist_ok=place != "base")
    names = {"file": "pics/link.png", "folder": "linked/me.png", "base": "me"}
    (Path("data/pics/link.png")).symlink_to(private / "me.png")
    Path("data/linked").symlink_to(private)
    rows = [{"question": f"q{i}", "answer": "yes", "image": names[place]} for i in range(8)]
    Path("data/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    PILImage.new("RGB", (8, 8)).save("data/own.png")
    keys = {"image": "linked/{image}.png"} if place == "base" else {}
    with pytest.raises(ICLError, match="points outside the folder"):
        open_queries(TEXTS if keys else IMAGES, **keys)
    assert open_queries(TEXTS if keys else IMAGES, allow_outside=True, **keys)


def test_a_link_inside_the_folder_is_read(private: Path) -> None:
    PILImage.new("RGB", (8, 8)).save("data/own.png")
    Path("data/link.png").symlink_to("own.png")
    rows = [{"question": f"q{i}", "answer": "yes", "image": "link.png"} for i in range(8)]
    Path("data/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert open_queries(IMAGES)


@pytest.mark.parametrize("name", ["../private/rows.jsonl", "{private}/rows.jsonl", "{url}/rows.jsonl", "~/rows.jsonl"])
@pytest.mark.parametrize("key", ["data_files", "data_files_of_splits", "data_dir"])
def test_a_card_that_names_files_outside_is_refused(name: str, key: str, private: Path) -> None:
    server = Server()
    try:
        name = name.format(private=private, url=server.url)
        Path("data/rows.jsonl").write_text(ROWS.replace("secret", "own"))
        value = {"data_files": name, "data_files_of_splits": [{"split": "test", "path": [name]}]}
        configs = {"configs": [{"config_name": "default", key.removesuffix("_of_splits"): value.get(key, name)}]}
        Path("data/README.md").write_text(f"---\n{json.dumps(configs)}\n---\n")
        with pytest.raises(DataError):
            open_queries(TEXTS)
        assert (server.headers, server.gets) == ([], [])
    finally:
        server.stop()


@pytest.mark.parametrize("images", [True, False])
def test_a_table_that_is_a_link_to_a_file_outside_is_refused(images: bool, private: Path) -> None:
    Path("data/test.jsonl").symlink_to(private / "rows.jsonl")
    if images:
        PILImage.new("RGB", (8, 8)).save("data/own.png")
    with pytest.raises(DataError, match="is not in the folder"):
        open_queries(TEXTS)


def test_a_saved_data_set_that_names_a_table_outside_is_refused(private: Path) -> None:
    Dataset.from_list([json.loads(line) for line in ROWS.splitlines()]).save_to_disk(str(private / "saved"))
    Dataset.from_list([{"question": "own", "answer": "yes"}]).save_to_disk("data")
    state = json.loads(Path("data/state.json").read_text())
    state["_data_files"] = [{"filename": "../private/saved/data-00000-of-00001.arrow"}]
    Path("data/state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="is not in the folder"):
        open_queries(TEXTS)


def test_a_folder_with_a_card_of_its_own_files_is_read(private: Path) -> None:
    Path("data/rows.jsonl").write_text(ROWS)
    configs = {"configs": [{"config_name": "default", "data_files": [{"split": "test", "path": "rows.jsonl"}]}]}
    Path("data/README.md").write_text(f"---\n{json.dumps(configs)}\n---\n")
    assert open_queries(TEXTS)


@pytest.mark.parametrize("path", ["{private}/me.png", "{url}/me.png"])
@pytest.mark.parametrize("shape", [{"a": Image()}, [{"a": Image()}], [[Image()]], Audio()], ids=str)
def test_media_inside_lists_and_mappings_are_not_opened(shape: Any, path: str, private: Path) -> None:
    server = Server()
    try:
        path = path.format(private=private, url=server.url)
        features = Features({"question": Value("string"), "answer": Value("string"), "more": shape})
        medium: Any = {"bytes": None, "path": path}
        medium = {"a": medium} if "a" in str(shape)[:4] else medium
        rows = [{"question": f"q{i}", "answer": "yes", "more": medium} for i in range(8)]
        for row in rows if isinstance(shape, list) else ():
            row["more"] = [[medium]] if isinstance(shape[0], list) else [medium]
        pq.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema), "data/test.parquet")
        task = build("task", {"name": "hub", "path": "data", "columns": TEXTS | {"meta": ["more"]}})
        assert {repr(query.meta["more"]) for query in task.queries} == {repr(rows[0]["more"])}
        assert (server.headers, server.gets) == ([], [])
    finally:
        server.stop()


def test_a_card_that_is_a_link_to_a_file_outside_is_refused(private: Path) -> None:
    (private / "card.md").write_text("---\nlicense: mit\n---\n")
    Path("data/test.jsonl").write_text(ROWS)
    Path("data/README.md").symlink_to(private / "card.md")
    with pytest.raises(DataError, match=r"README\.md is not in the folder"):
        open_queries(TEXTS)
