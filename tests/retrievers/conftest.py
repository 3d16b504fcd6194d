"""Small images and tiny two-tower checkpoints with random weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image as PILImage

from icl.images import Image
from icl.models.base import Request
from icl.types import Example, Generation
from retrievers.base import Vectors, normalize_rows


@pytest.fixture
def color() -> Callable[..., Image]:
    return _color


@pytest.fixture
def example() -> Callable[..., Example]:
    return _example


@pytest.fixture
def noise() -> Callable[..., Image]:
    return _noise


@dataclass(frozen=True)
class NumberEmbedder:
    """An embedder for small pools: a text is its numbers; an image is its first pixel, from -1 (black) to 1 (white)."""

    name: str = "number_embedder"
    reads = frozenset({"image", "text"})

    @property
    def digest(self) -> str:
        return self.name

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return normalize_rows(np.array([[float(number) for number in text.split()] for text in texts], np.float32))

    def embed_images(self, items: Sequence[Any]) -> Vectors:
        pixels = [np.asarray(item.images[0].open())[0, 0] / 127.5 - 1 for item in items]
        return normalize_rows(np.array(pixels, np.float32))

    def embed_words(self, texts: Sequence[str]) -> Vectors:
        """'1 0, 0 1' is two words; a text has at most four."""
        out = np.zeros((len(texts), 4, 3), np.float32)
        for i, text in enumerate(texts):
            own = self.embed_texts(text.split(",")) if text.strip() else np.zeros((0, 3), np.float32)
            out[i, : len(own)] = own
        return out


@pytest.fixture
def number_embedder() -> NumberEmbedder:
    return NumberEmbedder()


@dataclass(frozen=True)
class Describer:
    """A model that answers every prompt with one text and records the digests of prompts."""

    digest: str = "describer"
    says: str = "red"
    abilities: ClassVar[frozenset[str]] = frozenset({"generate"})
    needs: ClassVar[frozenset[str]] = frozenset()
    prompt_digests: ClassVar[list[str]] = []

    def load(self) -> None: ...

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        self.prompt_digests.extend(request.prompt.digest for request in requests)
        return [Generation(self.says) for _ in requests]


@pytest.fixture
def describer() -> type[Describer]:
    return Describer


@pytest.fixture
def turned() -> Callable[..., str]:
    """A text that `NumberEmbedder` embeds as the unit vector at an angle, in degrees, in a plane."""
    return lambda angle: f"{np.cos(np.radians(angle)):.9f} {np.sin(np.radians(angle)):.9f} 0"


@pytest.fixture
def pointing() -> Callable[..., Image]:
    """An image that `NumberEmbedder` embeds as this vector, up to 1/255. mark: distinguishes images of a vector."""

    def image(vector: Sequence[float], mark: int = 0) -> Image:
        pixels = np.full((8, 8, 3), 40, np.uint8)
        pixels[0, 0] = np.round((np.array(vector) + 1) * 127.5)
        pixels[1 + mark // 8 % 7, mark % 8, :] = 200
        return Image.from_pil(PILImage.fromarray(pixels), f"{vector}-{mark}")

    return image


@pytest.fixture
def save_towers() -> Callable[..., Path]:
    return _save_towers


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has its own cache."""
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _color(name: str, mark: int = 0, size: int = 32) -> Image:
    """One color, with a gray pixel whose position makes images of one color distinct."""
    image = PILImage.new("RGB", (size, size), name)
    image.putpixel((mark % size, mark // size), (128, 128, 128))
    return Image.from_pil(image, f"{name}-{mark}")


def _example(name: str, image: Image | None = None, answer: str = "a", **more: object) -> Example:
    return Example(name, (image,) if image else (), str(more.pop("question", "which?")), (answer,), **more)  # type: ignore[arg-type]


def _noise(seed: int, size: int = 32) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.from_pil(PILImage.fromarray(pixels), f"noise-{seed}")


def _save_towers(folder: Path, kind: str = "clip", seed: int = 0) -> Path:
    """A tiny random CLIP or SigLIP with its processor, as `save_pretrained` writes them."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = [*"0123?", "which", "what", "color", "is", "the", "red", "green", "blue", "shape", "count", "a", "of"]
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    text = {"vocab_size": len(vocabulary), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 8}
    torch.manual_seed(seed)
    if kind == "clip":
        config = transformers.CLIPConfig(
            text_config=text | {"projection_dim": 24}, vision_config=vision, projection_dim=24
        )
        model = transformers.CLIPModel(config)
        images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        processor = transformers.CLIPProcessor(images, tokenizer)
    else:
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
        images = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
        processor = transformers.SiglipProcessor(images, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save_towers(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save_towers(tmp_path_factory.mktemp("siglip"), "siglip")
