"""An embedder runs on the GPU only if it has room beside the models. What changes its vectors is in their key."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from icl.errors import ModelError
from icl.models.base import Model
from icl.models.hf.model import HF
from icl.models.vllm.model import VLLM
from retrievers.embedders.encoder import Encoder
from retrievers.embedders.mix import Mix
from retrievers.embedders.paired import Paired
from retrievers.knn import KNN
from retrievers.machinery import embedder_device
from retrievers.machinery.embedder_device import GIB, EmbedderPlacement, GPURoom, placed_embedders, reserve_for_models
from retrievers.machinery.embedding_cache import embedder_identity


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
    monkeypatch.setattr(embedder_device, "ROOM", GPURoom())
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
