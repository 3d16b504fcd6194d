"""Export fitted vectors to engines that add them without this package: llama.cpp, repeng, and vLLM with EasySteer.

    vector.gguf     tensors `direction.N` [d], float32, architecture `controlvector`; N: number of the layer, from 0
    steering.json   of `easysteer`: the SteeringSpec, with the tokens that get the vectors

    control_vector  h_N := h_N + direction_N at every token of prompt and answer, N > 0
    easysteer       `direct`: the same at the tokens of `apply`, N >= 0; `replace`: h_N := direction_N

h_N is the output of layer N. The directions contain the method's `strength`, so the engine's scale is 1. A vector that
is added to what the MLP adds is added to the layer's output, which is the same sum where the class does not scale it.

Formats: `cvector-generator` of llama.cpp, `ControlVector.export_gguf` of repeng (both have no direction.0), and version
2 of EasySteer's specs (Xu et al., arXiv 2509.25175).
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from decoding import FittedMethod, SteeringMethod, VectorEdit
from icl import ConfigError, Where, describe
from icl.models import import_optional

VECTORS, SPEC = Path("vector.gguf"), Path("steering.json")


def vector_files(form: str, method: SteeringMethod, folder: Path) -> dict[Path, bytes]:
    """Relative path -> content of the files of the folder.

    Args:
        form: `control_vector` or `easysteer`.
        method: The method with its file of vectors.
        folder: The folder, which steering.json names.

    Raises:
        ConfigError: The method's edit is none that the engine makes; says why.
        ModelError: The package gguf is absent.
    """
    edit = exported_edit(form, method)
    files = {VECTORS: _gguf(edit, str(describe(method)["name"]))}
    if form == "easysteer":
        vector = {
            "source": (folder / VECTORS).as_posix(),
            "algorithm": "direct" if edit.how == "add" else "replace",
            "scale": 1.0,
            "apply": selected_tokens(edit.where),
        }
        files[SPEC] = (json.dumps({"vectors": [vector]}, indent=1) + "\n").encode()
    return files


def exported_edit(form: str, method: SteeringMethod) -> VectorEdit:
    """The edit of a method, which the engine of the format makes too. Raises ConfigError with the reason if none."""
    name = str(describe(method)["name"])
    if not isinstance(method, FittedMethod):
        raise ConfigError(f"{name} cannot be exported as {form}: it has no file of fitted vectors.")
    if problem := method.problem():
        raise ConfigError(problem)
    fixed = type(method).intervention is not FittedMethod.intervention
    if reason := obstacle(form, method, method.intervention() if fixed else None):
        raise ConfigError(f"{name} cannot be exported as {form}: {reason}.")
    edit: VectorEdit = method.intervention()  # type: ignore[assignment]  # or there is an obstacle
    return edit


def obstacle(form: str, method: FittedMethod, edit: Any) -> str | None:
    """Why an engine that adds vectors to outputs of layers cannot make an edit, or None. edit: None if it varies."""
    if edit is None:
        return "its edit depends on the prompt"
    site = next((site for site in edit.sites if site.kind not in ("residual", "mlp")), None)
    if site is not None:
        return f"it acts on {site}, and the engine adds to the output of a layer"
    if not isinstance(edit, VectorEdit):
        return "its edit depends on the state, and the engine adds the same vector to each"
    everywhere = edit.where.span == "all" and edit.where.part == "both"
    only_adds = form == "control_vector" or edit.strength != 1 or any(site.kind == "mlp" for site in edit.sites)
    reasons = {
        "it acts in one part of a reasoning output": method.acts_in != "both",
        "it moves states to a vector, and the engine adds one (how: add)": edit.how == "replace" and only_adds,
        f"llama.cpp adds a vector at every token of prompt and answer, and it acts at {edit.where.span} of "
        f"{edit.where.part} (task_vector has tokens: all)": form == "control_vector" and not everywhere,
        f"it acts at {edit.where.span}, which EasySteer cannot select": edit.where.span not in ("all", "end"),
        "llama.cpp has no direction for layer 0": form == "control_vector" and any(s.layer == 0 for s in edit.sites),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def selected_tokens(where: Where) -> dict[str, Any]:
    """EasySteer's `apply` of the tokens of an edit. Positions of the prompt count from its end, from -1."""
    last = {"prompt_positions": [-place for place in range(where.before + where.count, where.before, -1)]}
    prompt = {"prompt": "all"} if where.span == "all" else last
    answer = {"generation": "all"}
    return {"prompt": prompt, "answer": answer, "both": prompt | answer}[where.part]


def _gguf(edit: VectorEdit, name: str) -> bytes:
    gguf = import_optional("gguf", "icl export:", "gguf")
    factor = edit.strength if edit.how == "add" else 1.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / VECTORS
        writer = gguf.GGUFWriter(path, "controlvector")
        writer.add_string("controlvector.model_hint", "")  # repeng reads it; llama.cpp and EasySteer do not
        writer.add_uint32("controlvector.layer_count", len(edit.sites))
        writer.add_string("general.name", name)
        for site, vector in sorted(edit.vectors.items()):
            writer.add_tensor(f"direction.{site.layer}", (factor * vector.float()).contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()
