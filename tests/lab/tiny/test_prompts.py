"""Training uses the token ids of the shipped processor, and the tokenizer has every word of the tasks."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from lab.tiny.__main__ import CHECKPOINTS
from lab.tiny.index import PoolIndex
from lab.tiny.layout import Batch, PromptLayout, TokenTurn
from lab.tiny.lessons import bind, copy, describe, operator
from lab.tiny.pool import ImagePool, make_pool
from lab.tiny.runner import messages
from lab.tiny.vocabulary import ID, UNK, encode, text_of, wording_words


@pytest.fixture(scope="module")
def processor() -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(CHECKPOINTS / "vlm")


@pytest.fixture(scope="module")
def pool() -> ImagePool:
    return make_pool(4, 800)


def sequences(pool: ImagePool) -> list[list[TokenTurn]]:
    index, rng = PoolIndex(pool), np.random.default_rng(1)
    return [
        bind(rng, index, 2, 4, hint=True, kind="size"),
        operator(rng, index, 3),
        describe(rng, index, 2),
        copy(rng, 3),
    ]


@pytest.mark.parametrize(
    ("chat", "text_first", "instruction"), list(product((True, False), (True, False), ("none", "short", "long")))
)
def test_training_ids_equal_the_processors(
    processor: Any, pool: ImagePool, chat: bool, text_first: bool, instruction: str
) -> None:
    layout = PromptLayout(chat, text_first, instruction)
    for turns in sequences(pool):
        batch = Batch([turns], layout)
        images = [PILImage.fromarray(pool.images[t.image]) for t in turns if t.image >= 0]
        prompt = processor.apply_chat_template(messages(turns, layout), add_generation_prompt=True)
        inputs = processor(text=[prompt], images=[images] if images else None, return_tensors="np")
        assert np.asarray(inputs["input_ids"])[0].tolist() == batch.tokens[0][: batch.slots[0] + 1].tolist()


def test_prompts_without_images_have_the_same_ids(processor: Any, pool: ImagePool) -> None:
    layout = PromptLayout(images=False)
    for turns in sequences(pool):
        prompt = processor.apply_chat_template(messages(turns, layout), add_generation_prompt=True)
        ids = processor(text=[prompt], return_tensors="np")["input_ids"]
        batch = Batch([turns], layout)
        assert np.asarray(ids)[0].tolist() == batch.tokens[0][: batch.slots[0] + 1].tolist()


def test_the_interleaved_prompt_reads_as_composers_write_it(processor: Any) -> None:
    turns = [TokenTurn(0, encode("name?"), encode("dax")), TokenTurn(1, encode("name?"), encode("wug"))]
    prompt = processor.apply_chat_template(messages(turns, PromptLayout(chat=False)), add_generation_prompt=True)
    assert prompt == "<q><image>Question: name ?\nAnswer: dax\n\n<image>Question: name ?\nAnswer:<a>"


def test_every_word_of_the_wording_is_one_token(processor: Any) -> None:
    for word in wording_words():
        assert processor.tokenizer(word, add_special_tokens=False)["input_ids"] == [ID[word]] == list(encode(word))
        assert processor.tokenizer.decode([ID[word]]) == word


@pytest.mark.parametrize("text", ["a Qwertz zebra-42!", "Describe the image.\n\nfoo", "x1 ##y (z)"])
def test_any_text_has_ids(processor: Any, text: str) -> None:
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == list(encode(text))
    assert text_of(encode("describe foo")) == "describe f ##o ##o"


def test_unknown_characters_are_unknown_and_nothing_else(processor: Any) -> None:
    assert encode("a ü b") == (ID["a"], UNK, ID["b"])
    assert processor.tokenizer.padding_side == "left"
