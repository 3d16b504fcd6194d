"""Grids of image tokens: those of processors that name them, and the models whose tokens form none."""

from pathlib import Path

import pytest
import torch

from icl.errors import ModelError
from icl.images import Image
from icl.models.hf.model import HF
from icl.models.hf.patch_grid import SIDE, grid_of, probe_images
from tests.random_models.twins.twin import save_twin
from tests.tiny_models import IS_WHOLE


def twin(name: str, folder: Path) -> HF:
    return HF(path=str(save_twin(name, folder / name)), dtype="float32", device="cpu")


def image(size: tuple[int, int]) -> Image:
    return Image.from_pil(next(probe_images(size)))


def test_the_grid_is_the_one_that_the_processor_names(tmp_path: Path) -> None:
    model = twin("qwen2_5_vl", tmp_path)
    for size in ((112, 112), (300, 200), (140, 420)):
        inputs, _ = model.pixels.process(image(size).open(), 1)
        _, rows, columns = inputs["image_grid_thw"][0].tolist()
        assert model.patch_grid(image(size)) == (rows // 2, columns // 2)


def test_the_shipped_small_model_has_a_grid_and_tiny_one_token() -> None:
    assert HF(path="small", device="cpu").patch_grid(image((64, 64))) == (4, 4)
    with pytest.raises(ModelError, match="tiny: an image is one token of this model"):
        HF(path="tiny", device="cpu").patch_grid(image((64, 64)))


@pytest.mark.parametrize(
    ("name", "size", "why"),
    [
        ("llava1_5", (448, 224), "crops images"),
        ("idefics2", (224, 224), "its 64 tokens form no grid"),
        ("llava1_6_mistral", (64, 64), "its 1176 tokens form no grid"),
    ][: 2 + IS_WHOLE],
)
def test_crops_queries_and_tiles_are_sentences(name: str, size: tuple[int, int], why: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{why}.*Maps need a model with a token for each patch"):
        twin(name, tmp_path).patch_grid(image(size))


def changes(rows: int, columns: int, part: float = 1.0) -> torch.Tensor:
    """States of tokens that are changed by squares over their patch, where the model sees the left `part` alone."""
    number = torch.arange(rows * columns)
    y, x = (number // columns + 0.5) / rows, (number % columns + 0.5) / columns * part
    states = [torch.ones(len(number), 1)]
    for row in range(SIDE):
        for column in range(SIDE):
            far = ((y - (row + 0.5) / SIDE) ** 2 + (x - (column + 0.5) / SIDE) ** 2) * 20
            states.append(1.1 + (-far).exp()[:, None])
    return torch.stack([*states, *[states[0] + 1] * 4])


def test_a_grid_is_neither_another_one_with_as_many_tokens_nor_that_of_a_part_of_the_image() -> None:
    assert grid_of(changes(4, 6)) == (4, 6)
    assert grid_of(changes(8, 3)) == (8, 3)
    assert grid_of(changes(4, 6, part=0.5)) == "its 24 tokens form no grid over the whole image"
    shuffled = changes(4, 6)[:, torch.randperm(24, generator=torch.Generator().manual_seed(0))]
    assert grid_of(shuffled) == "its 24 tokens form no grid"
