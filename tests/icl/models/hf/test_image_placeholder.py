"""The image placeholder of a processor, from the tokenizer or the config where the processor does not name it."""

from types import SimpleNamespace
from typing import Any

import pytest

from icl.models.hf.image_placeholder import image_placeholder, takes_interleaved_images
from tests.random_models.common import tokenizer

WORDS = tokenizer({"image_token": "<image>"}, ("<patch>",))
PLAIN = tokenizer({}, ("<image>", "<patch>"))
IMAGE, PATCH = WORDS.convert_tokens_to_ids(["<image>", "<patch>"])


@pytest.mark.parametrize(
    ("processor", "config", "expected"),
    [
        ({"image_token": "<image>", "image_token_ids": [IMAGE, None]}, {}, ("<image>", (IMAGE,))),
        ({"image_token": "<image>"}, {}, ("<image>", (IMAGE,))),  # as in Janus
        (
            {"image_token": "<image>", "image_token_ids": [IMAGE]},
            {"image_token_id": PATCH},
            ("<image>", (IMAGE, PATCH)),
        ),
        ({"image_token": "<patch>", "image_token_ids": [None]}, {"image_token_index": PATCH}, ("<patch>", (PATCH,))),
        ({"image_token_id": IMAGE}, {}, ("<image>", (IMAGE,))),  # as in Idefics
        ({}, {"image_token_index": PATCH}, ("<image>", (PATCH,))),
        ({"tokenizer": PLAIN}, {"image_token_id": PLAIN.convert_tokens_to_ids("<patch>")}, ("<patch>", None)),
        ({"tokenizer": PLAIN}, {}, ("", ())),
        ({"image_token": None}, {}, ("", ())),
        ({"image_token": "<no token>"}, {}, ("<no token>", ())),
    ],
)
def test_the_placeholder_comes_from_processor_tokenizer_or_config(
    processor: dict[str, Any], config: dict[str, Any], expected: tuple[str, Any]
) -> None:
    made = image_placeholder(SimpleNamespace(**{"tokenizer": WORDS} | processor), SimpleNamespace(**config))
    token, ids = expected
    assert (made.token, made.ids) == (token, tuple(config.values()) if ids is None else ids)


def test_patches_are_the_tokens_of_the_config_without_markers() -> None:
    """The processors of Cohere2 Vision and Pixtral also list the markers at the ends of rows and images."""

    def patches(ids: list[int], config: dict[str, int], own: int | None = None) -> tuple[int, ...]:
        processor = SimpleNamespace(tokenizer=WORDS, image_token="<image>", image_token_ids=ids, image_token_id=own)
        return image_placeholder(processor, SimpleNamespace(**config)).patches

    assert patches([IMAGE, PATCH], {"image_token_id": IMAGE}) == (IMAGE,)
    assert patches([IMAGE], {"image_token_index": PATCH}) == (PATCH,)
    assert patches([PATCH, IMAGE], {}, own=IMAGE) == (IMAGE,)
    assert patches([IMAGE], {}) == (IMAGE,)


def test_a_processor_that_names_no_placeholder_takes_images_among_the_texts() -> None:
    assert takes_interleaved_images(SimpleNamespace(tokenizer=WORDS))
    assert not takes_interleaved_images(SimpleNamespace(image_token=None))
