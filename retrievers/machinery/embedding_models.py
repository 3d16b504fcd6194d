"""What embedders with a checkpoint share: its files, their digest, device and dtype, and images decoded ahead."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from icl import (
    PIL,
    Image,
    Model,
    ModelError,
    expand_user,
    hide_transformers_progress,
    huggingface_hub,
    later_parameter,
    models,
    torch,
    transformers,
)
from icl.models.hf.device_placement import has_cuda, resolve_device
from retrievers.base import Vectors, stack_batches

BATCH = 64
SHIPPED = {"tiny": Path(__file__).parents[2] / "icl" / "models" / "tiny" / "checkpoints" / "encoder"}
WEIGHTS = (".safetensors", ".bin")
CHECKPOINT_FILES = (*WEIGHTS, ".json", ".txt", ".model", ".jinja")


@lru_cache
def find_checkpoint(path: str) -> Path:
    """The folder of a checkpoint: a shipped one, a folder, or a hub id (downloaded, or from the hub's cache)."""
    folder = SHIPPED.get(path, expand_user(path))
    if path not in SHIPPED and not folder.is_dir():
        folder = _from_hub(path)
    if not folder.is_dir() or not any(file.suffix in WEIGHTS for file in folder.iterdir()):
        raise ModelError(f"embedder 'encoder': {folder} has no weights ({' or '.join(WEIGHTS)}).")
    if not (folder / "config.json").is_file():
        raise ModelError(f"embedder 'encoder': {folder} has no config.json.")
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise ModelError(
            f"embedder 'encoder': {folder} has no processor (preprocessor_config.json or processor_config.json). "
            f"Save the processor of the model next to its weights."
        )
    return folder


def checkpoint_digest(folder: Path) -> str:
    """sha256 of all files that determine the vectors: weights, configuration, processor, tokenizer."""
    digest = sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in CHECKPOINT_FILES and file.is_file():
            state = file.stat()
            digest.update(f"{file.name}:{_file_digest(file, state.st_size, state.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def _file_digest(file: Path, size: int, mtime_ns: int) -> str:
    """sha256 of the content. `size` and `mtime_ns` are part of the cache key, so a changed file is read again."""
    blob = file.resolve().name
    if file.is_symlink() and len(blob) == 64 and set(blob) <= set("0123456789abcdef"):
        return blob  # the name of a large file in the hub's cache is its sha256
    return models.checksum(file)


# Where the checkpoint of an embedder runs, and in which dtype.
#
#     device: auto    the GPU if it has room next to the models of the run, which is decided before they are loaded;
#                     else the CPU
#     dtype: auto     float32 on a CPU, else the dtype of the checkpoint
#
# Room is what is free minus what the models need (`icl.models.base.Model.gpu_bytes`). An embedder needs its weights,
# a quarter of them again and 1 GiB for a batch.


@dataclass(frozen=True)
class EmbedderPlacement:
    """A device, and the dtype of the weights. dtype: 'auto' means the checkpoint's dtype."""

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
        return "auto" if self.dtype == "auto" else getattr(torch, self.dtype)


def load_pretrained(folder: Path, processor_class: str, name: str, placement: EmbedderPlacement) -> tuple[Any, Any]:
    """Load a model, and its processor.

    Args:
        processor_class: The class of transformers that loads the processor, such as 'AutoTokenizer'.
        name: The encoder, for the error.
        placement: Device and dtype of the model.

    Raises:
        ModelError: The checkpoint cannot be loaded.
    """
    try:
        with hide_transformers_progress():
            model: Any = transformers.AutoModel.from_pretrained(folder, dtype=placement.torch_dtype)
        return model.eval().to(placement.device), getattr(transformers, processor_class).from_pretrained(folder)
    except models.FAILURES as error:
        raise ModelError(f"{name} {folder} cannot be loaded: {models.reason(error)}") from error


def _from_hub(name: str) -> Path:
    try:
        return models.HubModel(name, key="embedder 'encoder'").downloaded([f"*{suffix}" for suffix in CHECKPOINT_FILES])
    except huggingface_hub.errors.HFValidationError as error:
        raise ModelError(
            f"embedder 'encoder': there is no folder '{name}', and it is no id of the hub. Use a folder, a hub id, or "
            "'tiny'."
        ) from error


GIB = 2**30
WEIGHT_FACTOR, BATCH_BYTES = 1.25, GIB
EmbedderDtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class PlacedEmbedder:
    """Base class of embedders with a checkpoint. They have the parameters `device` and `dtype`, and a digest."""

    digest: ClassVar[Any]

    device: str = later_parameter("auto")  # auto: the GPU if it has room beside the models, else cpu; or cuda, cuda:1
    dtype: EmbedderDtype = later_parameter("auto")  # auto: float32 on a CPU, else the checkpoint's own

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
        """Forget the embedders of an earlier run: so many bytes are free for the next run's embedders."""
        self.free, self.devices = free, {}


def needed_bytes(size: int) -> float:
    """Bytes of a GPU that an embedder with weights of `size` bytes needs."""
    return WEIGHT_FACTOR * size + BATCH_BYTES


def gpu_memory() -> tuple[float, float]:
    """(free bytes, total bytes) of the first GPU."""
    free, total = torch.cuda.mem_get_info()
    return float(free), float(total)


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


def placements(component: Any) -> Iterator[EmbedderPlacement]:
    """The placements of all embedders in a component, such as a retriever."""
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
    flags = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    return "".join(f" {name}" for name, flag in zip(("tf32", "cudnn-tf32"), flags, strict=True) if flag)


WORKERS = 4


def decode_batches(images: Sequence[Image], size: int) -> "Iterator[list[PIL.Image.Image]]":
    """Decode images in order, in batches, one batch ahead. Raises ImageError at the batch of an unreadable image."""
    if len(images) <= size:
        if images:
            yield [image.open() for image in images]
        return
    with ThreadPoolExecutor(WORKERS) as threads:
        starts = range(0, len(images), size)
        ahead = [threads.submit(image.open) for image in images[:size]]
        for start in starts:
            current, ahead = ahead, [threads.submit(image.open) for image in images[start + size : start + 2 * size]]
            yield [future.result() for future in current]


class SentenceEncoder:
    """A loaded sentence encoder."""

    def __init__(self, folder: Path, max_tokens: int, placement: EmbedderPlacement) -> None:
        self.model, self.tokenizer = load_pretrained(folder, "AutoTokenizer", "the sentence encoder", placement)
        self.max_tokens = max_tokens

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """The vector of each text, [N, D], unit rows."""
        rows = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                batch = list(texts[start : start + BATCH])
                inputs = self.tokenizer(
                    batch, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
                ).to(self.model.device)
                states, mask = self.model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
                rows.append(((states * mask).sum(dim=1) / mask.sum(dim=1)).float().cpu().numpy())
        return stack_batches(rows)

    def token_states(self, texts: Sequence[str], length: int) -> Vectors:
        """The states of the first `length` tokens, [N, length, D]. Special tokens and padding are zero."""
        rows = [np.zeros((0, length, self.model.config.hidden_size), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                inputs = self.tokenizer(
                    list(texts[start : start + BATCH]),
                    padding="max_length",
                    truncation=True,
                    max_length=length + 2,  # one special token at each end
                    return_special_tokens_mask=True,
                    return_tensors="pt",
                ).to(self.model.device)
                special = inputs.pop("special_tokens_mask")[..., None].bool()
                states = self.model(**inputs).last_hidden_state.float().masked_fill(special, 0.0)
                rows.append(states[:, 1 : length + 1].cpu().numpy())
        return np.concatenate(rows)


@lru_cache(maxsize=2)
def load_sentence_encoder(folder: Path, max_tokens: int, placement: EmbedderPlacement) -> SentenceEncoder:
    """The loaded encoder of a folder, shared by all users."""
    return SentenceEncoder(folder, max_tokens, placement)
