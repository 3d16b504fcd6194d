"""The inputs of all checks: prompts of several lengths with images of several sizes, and random checkpoints."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from icl import spans
from icl.images import Image
from icl.streams import StreamKey
from icl.types import Part, Prompt, Turn
from tests.random_models.common import Size
from tests.random_models.make import save
from tests.random_models.published_weights import write_as_published

NEW_TOKENS = 12
SIZE = Size(width=128, layers=2)
"""vLLM's attention for CPUs needs heads of at least 32."""
SIZES = ((56, 84), (120, 40), (40, 56), (84, 84))
"""Heights and widths of the images, in turn."""


def prompts() -> list[Prompt]:
    """Five prompts of the composer `chat` with zero to three demonstrations, and one of `interleaved`."""
    image_seeds = ([1, 2, 3], [4], [5, 1, 6, 2], [2, 7], [3])
    words = ("color?", "how many are there in it?", "x", "what is it, and where?", "is it red?")
    made = [_chat(images, text, f"q{i}") for i, (images, text) in enumerate(zip(image_seeds, words, strict=True))]
    both = (_image_part(8, spans.image(spans.demo(0))), Part("Question: what?\nAnswer: shape 8\n\n"))
    return [*made, Prompt((Turn("user", (*both, *_query(9, "Question: what?\nAnswer:"))),), StreamKey(0, "q5"))]


def checkpoint(name: str, folder: Path) -> Path:
    """The random checkpoint of an architecture, written if it does not exist.

    Its special tokens, such as image placeholders, are unlikely and end an answer.
    """
    if (folder / "complete").is_file():
        return folder
    save(name, folder, SIZE)
    words = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    special = sorted(token["id"] for token in words["added_tokens"])
    settings = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": special}), encoding="utf-8")
    write_as_published(folder, special)
    (folder / "complete").touch()
    return folder


def processor_inputs(processor: Any, turns: list[dict[str, Any]], token_types: bool) -> Any:
    """The inputs of `generate` for a conversation, by the processor alone.

    Args:
        processor: The processor.
        turns: The conversation, with images.
        token_types: Whether the class takes token types.
    """
    if hasattr(processor, "image_token"):
        more = {"processor_kwargs": {"return_mm_token_type_ids": True}} if token_types else {}
        return processor.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **more
        )
    # A processor without a placeholder of its own, such as that of Idefics, takes a list of texts and images.
    bos, slot = processor.tokenizer.bos_token, "\N{OBJECT REPLACEMENT CHARACTER}"
    image_of = iter([item["image"] for turn in turns for item in turn["content"] if item["type"] == "image"])
    template = processor.chat_template.replace("<image>", slot)
    text = processor.apply_chat_template(turns, add_generation_prompt=True, chat_template=template)
    pieces = re.split(f"({slot})", text.removeprefix(bos))
    items = [next(image_of) if piece == slot else piece for piece in pieces if piece]
    return processor(text=[items], return_tensors="pt")


def _chat(images: list[int], question: str, query: str) -> Prompt:
    turns: list[Turn] = []
    for i, seed in enumerate(images[:-1]):
        demo = spans.demo(i)
        parts = (_image_part(seed, spans.image(demo)), Part("what?", spans.question(demo)))
        turns += [Turn("user", parts), Turn("assistant", (Part(f"shape {seed}", spans.answer(demo)),))]
    return Prompt((*turns, Turn("user", _query(images[-1], question))), StreamKey(0, query))


def _query(seed: int, question: str) -> tuple[Part, ...]:
    return _image_part(seed, spans.image(spans.QUERY)), Part(question, spans.QUESTION)


def _image_part(seed: int, name: str) -> Part:
    """An image of interpolated random colors."""
    from PIL import Image as PILImage

    height, width = SIZES[seed % len(SIZES)]
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    image = PILImage.fromarray(coarse).resize((width, height), PILImage.Resampling.BILINEAR)
    return Part(Image.from_pil(image, f"random image {seed}"), name)
