"""Where the checkpoint of an embedder runs, and in which dtype.

    device: auto    the GPU if it has room beside the models of the run, which is decided before they are loaded;
                    else the CPU
    dtype: auto     float32 on a CPU, else the dtype of the checkpoint

Room is what is free minus what the models need (`icl.models.base.Model.gpu_bytes`). An embedder needs its weights, a
quarter of them again and 1 GiB for a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from icl.models.base import Model
from icl.models.hf.device_placement import has_cuda, resolve_device

GIB = 2**30
WEIGHT_FACTOR, BATCH_BYTES = 1.25, GIB
EmbedderDtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class EmbedderPlacement:
    """A device, and the dtype of the weights. dtype: 'auto' is that of the checkpoint."""

    device: str
    dtype: str

    @property
    def key(self) -> str:
        """What can change ranks, for the key of the embedding cache; '' for float32 on a CPU."""
        kind = self.device.partition(":")[0]
        if (kind, self.dtype) == ("cpu", "float32"):
            return ""
        return f"{kind} {self.dtype}{_tf32() if kind == 'cuda' else ''}"

    @property
    def torch_dtype(self) -> Any:
        """The argument `dtype` of `from_pretrained`."""
        import torch

        return "auto" if self.dtype == "auto" else getattr(torch, self.dtype)


class PlacedEmbedder:
    """Base class of embedders with a checkpoint. They have the parameters `device` and `dtype`, and a digest."""

    device: str
    dtype: EmbedderDtype
    digest: Any

    @property
    def placement(self) -> EmbedderPlacement:
        """The device and the dtype. Raises ModelError if there is no such device."""
        device = auto_device(self) if self.device == "auto" else resolve_device(self.device, key="embedder.device")[1]
        dtype = "float32" if self.dtype == "auto" and device == "cpu" else self.dtype
        return EmbedderPlacement(device, dtype)

    def checkpoint_bytes(self) -> int:
        """Bytes of the weights."""
        raise NotImplementedError


@dataclass
class GPURoom:
    """Bytes of the first GPU that embedders may take. None: what is free when the first of them is loaded.

    Attributes:
        devices: Digest of an embedder -> its device, which stays the same.
    """

    free: float | None = None
    devices: dict[str, str] = field(default_factory=dict)

    def place(self, digest: str, size: int) -> str:
        """The device of an embedder with weights of `size` bytes."""
        if digest not in self.devices:
            free, needed = gpu_memory()[0] if self.free is None else self.free, needed_bytes(size)
            self.devices[digest] = "cuda" if needed <= free else "cpu"
            self.free = free - needed if needed <= free else free
        return self.devices[digest]

    def reserve(self, free: float) -> None:
        """Forget the embedders of an earlier run: so many bytes are free for those of the next one."""
        self.free, self.devices = free, {}


ROOM = GPURoom()


def auto_device(embedder: PlacedEmbedder) -> str:
    """'cuda' if the GPU has room for an embedder, else 'cpu'."""
    if not has_cuda():
        return "cpu"
    return ROOM.place(embedder.digest, embedder.checkpoint_bytes())


def reserve_for_models(models: Sequence[Model]) -> None:
    """Leave room for the models of a run, which are loaded one after the other. Call it before they are loaded."""
    if any(model.owns_gpu for model in models):
        ROOM.reserve(0.0)  # and CUDA is not started before their engine
    elif has_cuda():
        free, total = gpu_memory()
        ROOM.reserve(free - max([model.gpu_bytes(total) for model in models], default=0.0))


def needed_bytes(size: int) -> float:
    """Bytes of a GPU that an embedder with weights of `size` bytes needs."""
    return WEIGHT_FACTOR * size + BATCH_BYTES


def gpu_memory() -> tuple[float, float]:
    """(free bytes, total bytes) of the first GPU."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return float(free), float(total)


def placements(component: Any) -> Iterator[EmbedderPlacement]:
    """The placements of all embedders in a component, such as those of a retriever."""
    placement = getattr(component, "placement", None)
    if isinstance(placement, EmbedderPlacement):
        yield placement
    for value in _values(component):
        yield from placements(value)


def placed_embedders(component: Any) -> Iterator[PlacedEmbedder]:
    """All embedders with a device in a component."""
    if isinstance(component, PlacedEmbedder):
        yield component
    for value in _values(component):
        yield from placed_embedders(value)


def weight_bytes(folder: Path) -> int:
    """Bytes of the weight files of a checkpoint. Weights in two formats count once."""
    sizes = [sum(file.stat().st_size for file in folder.glob(f"*{suffix}")) for suffix in (".safetensors", ".bin")]
    return sizes[0] or sizes[1]


def on_device(inputs: Any, model: Any) -> dict[str, Any]:
    """The inputs on the device of a model, floating-point tensors in its dtype."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        for name, value in inputs.items()
    }


def _values(component: Any) -> list[Any]:
    if is_dataclass(component) and not isinstance(component, type):
        return [getattr(component, f.name) for f in fields(component)]
    return list(component) if isinstance(component, tuple | list) else []


def _tf32() -> str:
    import torch

    flags = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    return "".join(f" {name}" for name, flag in zip(("tf32", "cudnn-tf32"), flags, strict=True) if flag)
