"""Files of fitted vectors: tensors in safetensors, and a JSON file next to them that says how they were fitted.

plus.safetensors    the tensors
plus.json           method, chosen parameters, model, width, template, task, shots, sources, seed, report
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from icl import ConfigError, Tensor, canonical_digest, location, safetensors, search_candidates, torch

FORMAT = "mm-icl vectors, 1"
SUFFIX = ".safetensors"
WRITER = "`icl fit`"
"""The command that writes vectors."""


@dataclass(frozen=True, eq=False)
class FittedTensors:
    """What a fit computed.

    Attributes:
        tensors: Name -> tensor, for the safetensors file.
        parameters: Parameters that the fit chose, such as the layer.
        report: Numbers for the file and the terminal, such as the accuracy at each layer on the choice part.
        warnings: What makes the vectors doubtful.
    """

    tensors: Mapping[str, Tensor]
    parameters: Mapping[str, Any]
    report: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class VectorFile:
    """Fitted vectors of one method.

    Attributes:
        path: The safetensors file.
        method: Name of the method.
        parameters: Parameters that the fit chose.
        record: How they were fitted: model digest, width, template digest, task, shots, sources, seeds.
        report: Numbers of the fit.
        tensors: Name -> tensor, float32.
        digest: sha256 (16 hex digits) of method, chosen parameters and tensors.
    """

    path: Path
    method: str
    parameters: Mapping[str, Any]
    record: Mapping[str, Any]
    report: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    digest: str


def write_vector_file(
    path: Path,
    method: str,
    *,
    tensors: Mapping[str, Tensor],
    parameters: Mapping[str, Any],
    record: Mapping[str, Any],
    report: Mapping[str, Any],
) -> None:
    """Writes both files. Raises ConfigError if the name does not end in .safetensors."""
    if path.suffix != SUFFIX:
        raise ConfigError(f"--out: {path} must end in {SUFFIX}. A JSON file of the same name is written beside it.")
    safetensors.torch.save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, path)
    content = {
        "format": FORMAT,
        "method": method,
        "parameters": dict(parameters),
        "tensors_digest": _bytes_digest(path),
        "fitted_on": dict(record),
        "report": dict(report),
    }
    path.with_suffix(".json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def find_fitted_file(name: str, where: str = "") -> Path:
    """The file that a config names at this position. Raises ConfigError if there is none."""
    candidates = search_candidates(name)
    if (path := next((path for path in candidates if path.is_file()), None)) is not None:
        return path
    if (other := next((path for path in candidates if path.exists()), None)) is not None:
        kind = "a directory" if other.is_dir() else "a pipe, a device or a socket"
        raise ConfigError(f"{location(where)}fitted: {other} is {kind}, not a file. {WRITER} writes one.")
    searched = ", ".join(str(path.parent) for path in candidates)
    raise ConfigError(f"{location(where)}fitted: there is no file {name} (looked in {searched}). {WRITER} writes one.")


def find_vector_file(name: str) -> Path:
    """The safetensors file that a config names. Raises ConfigError if there is none."""
    path = find_fitted_file(name)
    if path.suffix != SUFFIX:
        raise ConfigError(f"fitted: {path} is not a {SUFFIX} file, as {WRITER} writes for interventions.")
    return path


def read_vector_file(path: Path) -> VectorFile:
    """The vectors in a file, read once while it does not change. Raises ConfigError."""
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise ConfigError(f"fitted: {path} cannot be read: {error}.") from error


@lru_cache(maxsize=64)
def _read(path: Path, modified: int) -> VectorFile:
    record_path = path.with_suffix(".json")
    try:
        content = json.loads(record_path.read_text(encoding="utf-8"))
        version, method, parameters = content["format"], str(content["method"]), dict(content["parameters"])
        record, report, expected = (
            dict(content["fitted_on"]),
            dict(content.get("report", {})),
            content["tensors_digest"],
        )
    except FileNotFoundError as error:
        raise ConfigError(
            f"fitted: {record_path} is missing. {WRITER} writes it next to {path.name}: copy both files."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"fitted: {record_path} is damaged, or of other origin than {WRITER} ({type(error).__name__}: {error}). "
            f"Copy it again with {path.name}."
        ) from error
    if version != FORMAT:
        raise ConfigError(f"fitted: {record_path} has the format '{version}', but this version reads '{FORMAT}'.")
    if _bytes_digest(path) != expected:
        raise ConfigError(f"fitted: {path} and {record_path} are not of one fit: the digest of the tensors differs.")
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError) as error:
        raise ConfigError(f"fitted: {path} cannot be read: {error}.") from error
    identity = json.dumps([method, parameters, expected], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return VectorFile(path, method, parameters, record, report, tensors, digest)


def _bytes_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def random_of_equal_norm(vectors: Tensor, name: str) -> Tensor:
    """Random vectors, each with the norm of the vector in its place. name: of the random stream."""
    generator = torch.Generator().manual_seed(int(canonical_digest(["random vectors", name])[:15], 16))
    noise = torch.randn(vectors.shape, generator=generator)
    scale = vectors.float().norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    vectors_of_equal_norm: Tensor = noise * scale
    return vectors_of_equal_norm
