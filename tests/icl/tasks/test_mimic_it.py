"""MIMIC-IT's instructions become queries with their related instructions as pool."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from icl.errors import DataError
from icl.registry import build
from icl.testing import check_task


def encoded(level: int) -> str:
    out = io.BytesIO()
    PILImage.new("RGB", (8, 8), (level, 7, 255 - level)).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four instructions; each of the first three has two related ones, the last has none."""
    related = {"a": ["b", "d"], "b": ["a", "c"], "c": ["d", "b"], "d": []}
    rows = {
        name: {
            "instruction": f"what is {name}?",
            "answer": f"it is {name}",
            "image_ids": [f"i{name}"],
            "rel_ins_ids": ids,
        }
        for name, ids in related.items()
    }
    (tmp_path / "LA_instructions.json").write_text(json.dumps({"meta": {"version": "0.0.1"}, "data": rows}))
    (tmp_path / "LA.json").write_text(json.dumps({f"i{name}": encoded(9 * i) for i, name in enumerate(rows)}))
    return tmp_path


def task(folder: Path, **more: Any) -> Any:
    values = {"path": str(folder / "LA_instructions.json"), "images": str(folder / "LA.json"), **more}
    return build("task", {"name": "mimic_it", **values})


def change(folder: Path, **values: Any) -> None:
    path = folder / "LA_instructions.json"
    content = json.loads(path.read_text())
    content["data"]["a"] = {**content["data"]["a"], **values}
    path.write_text(json.dumps(content))


def test_the_pool_of_an_instruction_is_its_related_ones_in_their_order(folder: Path) -> None:
    made = task(folder)
    check_task(made)
    assert {q.id: [one.id for one in made.pool(q.id).examples] for q in made.queries} == {
        "a": ["b", "d"], "b": ["a", "c"], "c": ["d", "b"]
    }  # fmt: skip
    assert made.pool_size == 2
    assert made.queries[0].answer == f"it is {made.queries[0].id}"
    assert made.notes == (f"1 of 4 instructions of {made.path} are no queries: they have no related instructions.",)
    assert len(task(folder, queries=2).queries) == 2


def test_a_folder_of_images_gives_the_same_pixels(folder: Path) -> None:
    for name, text in json.loads((folder / "LA.json").read_text()).items():
        (folder / f"{name}.png").write_bytes(base64.b64decode(text))
    for one, other in zip(task(folder).queries, task(folder, images=str(folder)).queries, strict=True):
        assert one.images[0].digest == other.images[0].digest


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rel_ins_ids": ["b", "x"]}, "the instruction 'a' is related to 'x', which the file does not have"),
        ({"rel_ins_ids": None}, "'rel_ins_ids' of the instruction 'a' is not a list of ids"),
        ({"rel_ins_ids": "b"}, "'rel_ins_ids' of the instruction 'a' is not a list of ids"),
        ({"rel_ins_ids": [["b"]]}, "'rel_ins_ids' of the instruction 'a' is not a list of ids"),
        ({"answer": None}, "'answer' of the instruction 'a' is not a text"),
        ({"image_ids": ["iz"]}, r"LA\.json has no image 'iz', which the instruction 'a' shows"),
    ],
)
def test_a_missing_relation_or_image_is_a_sentence(folder: Path, values: dict[str, Any], message: str) -> None:
    change(folder, **values)
    with pytest.raises(DataError, match=message):
        _ = task(folder).queries


def test_a_wrong_file_is_a_sentence(folder: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read .* pufanyi/MIMICIT"):
        _ = task(folder, path=str(folder / "none.json")).queries
    (folder / "LA.json").write_text(json.dumps({"ia": "no base64!", "ib": "", "ic": "", "id": ""}))
    with pytest.raises(DataError, match=r"the image 'ia' is not base64"):
        _ = task(folder, queries=3).queries
    path = folder / "LA_instructions.json"
    for text, message in (("{", "is not JSON"), ("[]", "is not a JSON mapping"), ("{}", "has no mapping 'data'"),
                          ('{"data": {"a": {"instruction": ""}}}', "the instruction 'a' has no 'answer'")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            _ = task(folder).queries


def test_a_file_without_relations_is_a_sentence(folder: Path) -> None:
    path = folder / "LA_instructions.json"
    rows = json.loads(path.read_text())["data"]
    del rows["b"]["rel_ins_ids"]
    path.write_text(json.dumps({"data": rows}))
    with pytest.raises(DataError, match=r"instruction 'b' has no 'rel_ins_ids'\. It needs instruction, answer, image"):
        _ = task(folder).queries
    path.write_text(json.dumps({"data": {name: {**row, "rel_ins_ids": []} for name, row in rows.items()}}))
    with pytest.raises(DataError, match=r"none of the 4 instructions of .* has related ones"):
        _ = task(folder).queries
