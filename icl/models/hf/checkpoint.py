"""Location, completeness and identity of a checkpoint. Nothing here reads weights into memory."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from icl import (
    SMALL_SOURCE_BYTES,
    ModelError,
    did_you_mean,
    expand_user,
    hide_transformers_progress,
    models,
    parse_json_object,
    safetensors,
    transformers,
)
from icl.models.hf import TextProcessor, conventions, plain_text
from icl.models.hub_model import HubModel, indexed_names

TINY = Path(__file__).resolve().parent.parent / "tiny" / "checkpoints" / "vlm"


def _small() -> Path:
    from icl.models.small.folder import checkpoint_folder

    return checkpoint_folder()


SHIPPED: Mapping[str, Callable[[], Path]] = {"tiny": lambda: TINY, "small": _small}
"""Word for `path` -> its folder. The folder of `small` is assembled at first use."""

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
TOKENIZERS = ("tokenizer*", "vocab*")
SAMPLES, BLOCK = 64, 2**16
"""Of a large weight file, this many blocks of this many bytes enter its digest, evenly spaced."""


@dataclass(frozen=True)
class Checkpoint:
    """A model on the hub or in a folder.

    Attributes:
        path: Hub id, folder, or the name of a shipped checkpoint.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Whether Python code of the checkpoint may run.
        image_processor: Settings of the image processor in place of the checkpoint's own (`image_settings`).
    """

    path: str
    revision: str | None = None
    trust_remote_code: bool = False
    image_processor: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @cached_property
    def hub(self) -> HubModel | None:
        """The model on the hub, or None for a folder. Raises ModelError if the path is neither."""
        folder = expand_user(self.path)
        if self.path in SHIPPED or folder.is_dir():
            if self.revision is not None:
                where = f"model.revision: {self.path} is on this machine"
                raise ModelError(f"{where} and has no revisions. Remove `revision`.")
            return None
        if not folder.exists() and re.fullmatch(r"(?!.*(--|\.\.))\w[\w.-]*/\w[\w.-]*", self.path):
            return HubModel(self.path, self.revision)
        expected = "a folder with a checkpoint, a hub id (owner/name)"
        missing = "it is a file" if folder.exists() else f"there is no folder {folder.absolute()}"
        raise ModelError(
            f"model.path: '{self.path}' is not {expected} or one of {', '.join(SHIPPED)}: {missing}."
            f"{did_you_mean(self.path, SHIPPED)}"
        )

    @cached_property
    def folder(self) -> Path:
        """The folder; for a hub id, that of its commit in the cache. Raises ModelError without a config or a processor.

        The weights of a hub id may be absent (`folder_with_weights`).
        """
        resolve = SHIPPED.get(self.path)
        folder = self.hub.folder if self.hub is not None else resolve() if resolve else expand_user(self.path)
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"model.path: {self.hub_name or folder} has no config.json, so it is not a checkpoint. "
                "Name one of transformers."
            )
        if not any(any(folder.glob(name)) for name in (*PROCESSORS, *TOKENIZERS)):
            raise ModelError(
                f"model.path: {self.hub_name or folder} has no tokenizer ({' or '.join(TOKENIZERS)}) and "
                f"has no processor ({' or '.join(PROCESSORS)}), which a plan needs too: it counts tokens. Put one next "
                "to config.json with `save_pretrained`."
            )
        return folder

    @property
    def hub_name(self) -> str:
        """The hub id with its commit, such as owner/name@0123…; '' for a folder."""
        return "" if self.hub is None else f"{self.path}@{self.hub.commit}"

    @property
    def _place(self) -> str:
        """Where its files are, for error messages."""
        return self.hub_name or str(self.folder)

    def check_weights(self) -> None:
        """Raises ModelError if weights are missing. A plan does not need them. Downloads nothing large."""
        if self.hub is not None:
            _ = self.folder, self.hub.weight_names
            return
        indexed_names(self.folder, {path.name for path in self.folder.iterdir()}, f"model.path: {self.folder}")
        if not any(any(self.folder.glob(pattern)) for pattern in WEIGHTS):
            raise ModelError(
                f"model.path: {self.folder} has a config.json but no weights (*.safetensors). Save the model there "
                "with `save_pretrained`, or use another folder."
            )
        for path in sorted(self.folder.glob("*.safetensors")):
            if problem := _damage(path):
                raise ModelError(f"model.path: {path} is damaged or incomplete ({problem}). Copy it again.")

    @property
    def folder_with_weights(self) -> Path:
        """The folder after its weights are downloaded. Raises ModelError if some are missing."""
        self.check_weights()
        if self.hub is not None:
            self.hub.download_weights()
        return self.folder

    @cached_property
    def config(self) -> Any:
        """The config of the model, or of its part that reads images, if it also speaks."""
        return conventions.reading_config(self._read(transformers.AutoConfig, "config"))

    @cached_property
    def config_dict(self) -> Mapping[str, Any]:
        """The config as stored, read without transformers, which a finished run does not need."""
        try:
            return parse_json_object((self.folder / "config.json").read_bytes())
        except ValueError:
            pass  # `config` raises the error
        written: dict[str, Any] = self.config.to_dict()
        return written

    @property
    def stores_template(self) -> bool:
        """Whether a file of its own has the chat template. It may also be in the configs of processor and tokenizer."""
        return any((self.folder / f"chat_template.{end}").is_file() for end in ("jinja", "json"))

    @cached_property
    def processor(self) -> Any:
        """The processor, with tokenizer, image processor and chat template. Raises ModelError if a part is missing.

        For a language model that reads text only, its tokenizer (`TextProcessor`).
        """
        if conventions.reads_text_only(self.config):
            return self._text_processor()
        if not any((self.folder / name).is_file() for name in PROCESSORS):
            raise ModelError(
                f"model.path: {self._place} has no processor ({' or '.join(PROCESSORS)}), which a plan needs too: it "
                "counts tokens. Save it next to config.json with `processor.save_pretrained`."
            )
        processor = self._read(transformers.AutoProcessor, "processor", **self.image_processor)
        if not getattr(processor, "chat_template", None):  # some classes leave it to the tokenizer
            processor.chat_template = getattr(getattr(processor, "tokenizer", None), "chat_template", None)
        conventions.check_processor(processor, self.path)
        if not processor.chat_template:
            processor.chat_template = plain_text(conventions.image_placeholder(processor).token)
        return processor

    def _text_processor(self) -> TextProcessor:
        if not any(any(self.folder.glob(name)) for name in TOKENIZERS):
            raise ModelError(
                f"model.path: {self._place} has no tokenizer ({' or '.join(TOKENIZERS)}), which a plan needs too: it "
                "counts tokens. Save it next to config.json with `tokenizer.save_pretrained`."
            )
        return TextProcessor(self._read(transformers.AutoTokenizer, "tokenizer"))

    @cached_property
    def generation(self) -> Any:
        """The generation config, or one made from the model config if there is none."""
        try:
            return transformers.GenerationConfig.from_pretrained(str(self.folder))
        except models.FAILURES as error:
            is_there = (self.folder / "generation_config.json").is_file()
            if is_there or not isinstance(error, OSError):
                raise ModelError(self._sentence("generation config", error)) from error
            return transformers.GenerationConfig.from_model_config(self.config)

    def weights(self, **how: Any) -> Any:
        """The model in evaluation mode. Raises ModelError if weights are missing.

        Args:
            how: Arguments of `from_pretrained`, such as dtype, device_map and attn_implementation.
        """
        _ = self.folder_with_weights
        kind, how = conventions.auto_class(self.config), {"config": self.config} | how
        model, info = self._read(kind, "weights", output_loading_info=True, **how)
        if missing := sorted(info["missing_keys"]):
            raise ModelError(
                f"model.path: {self.path} lacks {len(missing)} of the weights of a {type(model).__name__} (such as "
                f"{missing[0]}), which would be initialized randomly. Its config or its weights belong to "
                "another model."
            )
        return model.eval().requires_grad_(False)

    def _read(self, kind: Any, what: str, **how: Any) -> Any:
        try:
            with hide_transformers_progress(self._small):
                return kind.from_pretrained(str(self.folder), trust_remote_code=self.trust_remote_code, **how)
        except models.FAILURES as error:
            raise ModelError(self._sentence(what, error)) from error

    def _sentence(self, what: str, error: Exception) -> str:
        damaged = models.damaged_json_file(self.folder)
        if "trust_remote_code" in str(error):
            return (
                f"model.path: {self.path} brings its own Python code, which does not run by default. Read that code, "
                "then set `trust_remote_code: true` (and a `revision`), or take a checkpoint that transformers knows."
            )
        if damaged:
            return f"model.path: the {what} of {self.path} cannot be loaded: {damaged}"
        if "does not recognize this architecture" in str(error):
            return (
                f"model.path: config.json of {self._place} has the model_type "
                f"'{self.config_dict.get('model_type')}', which transformers {transformers.__version__} does not know. "
                "A newer release may know it, or another checkpoint of this model (often named `-hf`) has a known one."
            )
        if "Unrecognized model" in str(error):
            return f"model.path: config.json of {self._place} has no model_type. Name a checkpoint of transformers."
        return f"model.path: the {what} of {self.path} cannot be loaded: {models.reason(error)}"

    @property
    def _small(self) -> bool:
        """Whether the weights load so fast that no progress bar is needed."""
        files = [path for pattern in WEIGHTS for path in self.folder.glob(pattern)]
        return bool(files) and sum(path.stat().st_size for path in files) < SMALL_SOURCE_BYTES

    @cached_property
    def digest(self) -> str:
        """sha256 of the files that determine the outputs. For a hub id, `hub_name`."""
        if self.hub is not None:
            return self.hub_name
        hasher = hashlib.sha256()
        for path in sorted(self._files(self.folder)):
            if not path.is_file():
                raise ModelError(f"model.path: {path} is a broken link. Copy the checkpoint again, or remove the link.")
            stat = path.stat()
            hasher.update(f"{path.name}:{_file_digest(str(path), stat.st_size, stat.st_mtime_ns)}\n".encode())
        return hasher.hexdigest()

    @property
    def weights_digest(self) -> str:
        """sha256 of the files of weights, wherever they are. Raises ModelError if some are missing."""
        files = sorted(path for pattern in WEIGHTS for path in self.folder_with_weights.glob(pattern))
        stats = [(path, path.stat()) for path in files]
        digests = [_file_digest(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def _files(self, folder: Path) -> Iterator[Path]:
        for pattern in (*WEIGHTS, "*.json", "*.jinja", "*.model", "*.txt", "*.py"):
            yield from folder.glob(pattern)


@lru_cache(4096)
def _file_digest(path: str, size: int, changed: int) -> str:
    """sha256 of a small file, or of the size and evenly spaced blocks of a large one."""
    hasher = hashlib.sha256(str(size).encode())
    with Path(path).open("rb") as file:
        if size <= 2 * SAMPLES * BLOCK:
            hasher.update(file.read())
        else:
            for place in range(SAMPLES):
                file.seek((size - BLOCK) * place // (SAMPLES - 1))
                hasher.update(file.read(BLOCK))
    return hasher.hexdigest()


def _damage(path: Path) -> str:
    """Why a file of safetensors cannot be read, by its header and its size; the empty string if it can."""

    try:
        with safetensors.safe_open(path, "np"):  # reads the header alone, and loads no torch
            return ""
    except (OSError, safetensors.SafetensorError) as error:
        return models.reason(error)


def text_config(config: Any) -> Any:
    """The language model's part of a config."""
    return config.get_text_config(decoder=True)


def max_tokens(config: Any) -> int | None:
    """Context length in tokens according to the text config."""
    length = getattr(text_config(config), "max_position_embeddings", None)
    return int(length) if length else None


def penalty_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """A note if `generate` of transformers lowers the scores of repeated tokens, as the authors ask."""
    try:  # without transformers, which a plan of counted prompts does not need
        settings = parse_json_object((checkpoint.folder / "generation_config.json").read_bytes())
    except FileNotFoundError:
        settings = dict(checkpoint.config_dict)
    except (OSError, ValueError):
        return ()  # `generation` raises the error
    penalty = settings.get("repetition_penalty")
    if penalty in (None, 1.0):
        return ()
    return (
        f"{checkpoint.path}: its generation config asks for a repetition penalty of {penalty}, which decoding does not "
        f"apply by itself. `logits_processors: [{{name: repetition_penalty, penalty: {penalty}}}]` in `decoding` does.",
    )


def stop_tokens(checkpoint: Checkpoint) -> frozenset[int]:
    """Token ids that end an answer, from the generation config, or else from config and tokenizer."""
    stops = _ids(checkpoint, checkpoint.generation.eos_token_id)
    if not stops:
        stops = _ids(checkpoint, getattr(text_config(checkpoint.config), "eos_token_id", None))
        stops |= _ids(checkpoint, checkpoint.processor.tokenizer.eos_token_id)
    if not stops:
        raise ModelError(
            f"model.path: {checkpoint.path} defines no end-of-text token (eos_token_id) in any of its configs."
        )
    return stops


def _ids(checkpoint: Checkpoint, value: Any) -> frozenset[int]:
    ids = value if isinstance(value, list | tuple) else () if value is None else (value,)
    if not all(isinstance(one, int) for one in ids):
        raise ModelError(
            f"model.path: eos_token_id of {checkpoint.path} is a token id or a list of ids, not {value!r}."
        )
    return frozenset(ids)
