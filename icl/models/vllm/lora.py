"""A LoRA of peft in the engine, put on every request.

vLLM leaves out, without a word, what it has no place for, and takes weights of another size. So an adapter is first put
on the checkpoint's empty skeleton by the code of the backend `hf`, which says where it does not fit; and once it is in
the engine, what has found no place there is an error.
"""

import json
from typing import TYPE_CHECKING, Any

from icl.errors import ModelError
from icl.models.hf.adapter import CONFIG, LoraAdapter

if TYPE_CHECKING:
    from icl.models.hf.model import HF

NUMBER = 1
"""Of the one adapter that an engine has."""

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""That vLLM has room for."""


def arguments(adapter: LoraAdapter) -> dict[str, Any]:
    """What the engine is started with. Raises ModelError where the rank is too large."""
    told = json.loads((adapter.folder / CONFIG).read_text(encoding="utf-8"))
    rank = max([int(told.get("r", 0)), *map(int, (told.get("rank_pattern") or {}).values())])
    room = next((size for size in RANKS if size >= rank), None)
    if room is None:
        raise ModelError(
            f"{adapter.key}: {adapter.folder} has rank {rank}, and vLLM takes {RANKS[-1]} at most. Use `merge: true`."
        )
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": room}


def check(adapter: LoraAdapter, hf: "HF") -> None:
    """Raises ModelError where the adapter is of another model; no weights are read."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        skeleton = AutoModelForImageTextToText.from_config(hf.checkpoint.config, trust_remote_code=hf.trust_remote_code)
    adapter.applied(skeleton, hf.path, merge=False)


def put(adapter: LoraAdapter, llm: Any) -> Any:
    """Loads it into the engine; what a request is given. Raises ModelError where vLLM cannot apply all of it."""
    from vllm.lora.request import LoRARequest

    asked = LoRARequest("adapter", NUMBER, str(adapter.folder))
    try:
        llm.llm_engine.add_lora(asked)
    except Exception as error:  # whatever an engine's process raised
        raise ModelError(f"{adapter.key}: vLLM does not take {adapter.folder}: {error}") from error
    lost: list[str] = llm.collective_rpc("lockstep_unsupported_layers", args=(NUMBER,))[0]
    if lost:
        raise ModelError(
            f"{adapter.key}: vLLM has no place for {len(lost)} of the layers that {adapter.folder} changes, such as "
            f"{lost[0]}, and would leave them out. Use `merge: true`, or the backend 'hf'."
        )
    return asked
