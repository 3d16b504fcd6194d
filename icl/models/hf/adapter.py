"""peft LoRA adapters (Hu et al., ICLR 2022), unmerged or merged into the weights.

The layers are replaced inside the model, so other code keeps its reference to the same object.
"""

import hashlib
import re
import warnings
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from icl import ModelError, canonical_bytes, expand_user, models, parse_json, safetensors
from icl.models.hf import SHIPPED

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
ADAPTERS = Path(__file__).resolve().parent.parent / "tiny" / "adapters"
SHIPPED_ADAPTERS = {f"tiny_{file.parent.name}": file.parent for file in sorted(ADAPTERS.glob(f"*/{CONFIG}"))}
"""Word for `adapter` -> its folder. `python -m lab.tiny stages` trains them."""
HUB_ID = r"[\w.-]+/[\w.-]+"


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA adapter in a folder that `save_pretrained` of peft wrote.

    Attributes:
        path: The folder, or the name of a shipped adapter.
        key: Config key that names it, for error messages.
    """

    path: str
    key: str = "model.adapter"

    @cached_property
    def folder(self) -> Path:
        """The folder. Raises ModelError if it is incomplete or contains another kind of adapter."""
        own, shipped_folder = expand_user(self.path), SHIPPED_ADAPTERS.get(self.path)
        if shipped_folder is not None and own.is_dir():
            raise ModelError(
                f"{self.key}: '{self.path}' is a shipped adapter and a folder here. Write ./{self.path} for the folder."
            )
        folder = shipped_folder or own
        if not folder.is_dir():
            shipped = ", ".join(SHIPPED_ADAPTERS)
            raise ModelError(f"{self.key}: there is no folder {folder.absolute()}, and shipped adapters are {shipped}.")
        if not (folder / CONFIG).is_file():
            raise ModelError(f"{self.key}: {folder} has no {CONFIG}, so it is not a peft adapter.")
        if not any((folder / name).is_file() for name in WEIGHTS):
            raise ModelError(f"{self.key}: {folder} has an {CONFIG} but no weights ({' or '.join(WEIGHTS)}).")
        try:
            config = parse_json((folder / CONFIG).read_bytes())
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.key}: {folder / CONFIG} is not JSON: {error}.") from error
        kind = config.get("peft_type") if isinstance(config, dict) else None
        if kind != "LORA":
            raise ModelError(
                f"{self.key}: {folder} contains an adapter of type {kind}. This backend supports LORA only."
            )
        if find_spec("peft") is None:
            raise ModelError(
                f"{self.key}: this needs the package peft, which is not installed (pip install 'mm-icl[adapters]')."
            )
        return folder

    @cached_property
    def digest(self) -> str:
        """sha256 of settings and weights. The path of the base model does not count."""
        settings = parse_json((self.folder / CONFIG).read_bytes())
        settings.pop("base_model_name_or_path", None)
        hasher = hashlib.sha256(canonical_bytes(settings))
        for name in WEIGHTS:
            if (self.folder / name).is_file():
                with (self.folder / name).open("rb") as file:
                    hasher.update(hashlib.file_digest(file, "sha256").digest())
        return hasher.hexdigest()

    @cached_property
    def base(self) -> str:
        """Name of the model that the adapter was trained on, according to its config."""
        config = parse_json((self.folder / CONFIG).read_bytes())
        return str(config.get("base_model_name_or_path") or "another model")

    def base_note(self, name: str) -> str | None:
        """A note if the base model has another hub name than `name`. Not an error: a copy of the base has another name
        too.
        """
        if self.base == name or not (re.fullmatch(HUB_ID, self.base) and re.fullmatch(HUB_ID, name)):
            return None
        return f"the adapter {self.folder} says that it was trained on {self.base}; it is used on {name}"

    def check_base(self, name: str) -> None:
        """Raises ModelError if the adapter was trained on another shipped model than `name`. Reads no weights."""
        if self.base != name and {self.base, name} <= SHIPPED.keys():
            raise ModelError(self._other(name, "both are shipped"))

    def apply_to(self, model: Any, name: str, merge: bool) -> Any:
        """The model with the adapter.

        Args:
            model: The base model.
            name: Name of its checkpoint, for error messages.
            merge: Whether to add the adapter to the weights.

        Raises:
            ModelError: The adapter does not fit the model.
        """
        import logging
        from pickle import UnpicklingError

        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it warns
        from peft import PeftConfig, PeftModel

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the conditions that peft warns of raise below
                config = PeftConfig.from_pretrained(str(self.folder))
                config.inference_mode = True
                tuned = PeftModel(model, config)
                loaded = tuned.load_adapter(str(self.folder), "default", is_trainable=False)
        except (*models.FAILURES, re.error) as error:
            if isinstance(error, UnpicklingError | EOFError | safetensors.SafetensorError):
                raise ModelError(f"{self.key}: {self.folder} cannot be loaded: {models.reason(error)}") from error
            raise ModelError(self._other(name, models.reason(error))) from error
        for keys, what in ((loaded.unexpected_keys, "has no place for"), (loaded.missing_keys, "finds nothing for")):
            if keys:
                raise ModelError(self._other(name, f"{name} {what} {len(keys)} of its weights, such as {keys[0]}"))
        whole = tuned.merge_and_unload() if merge else tuned.get_base_model()
        return whole.eval().requires_grad_(False)

    def _other(self, name: str, why: str) -> str:
        return (
            f"{self.key}: {self.folder} is an adapter of another model than {name}: {why.rstrip('.')}. It was "
            f"trained on {self.base}."
        )
