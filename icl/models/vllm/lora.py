"""A LoRA adapter of peft in the engine, applied to every request.

vLLM silently ignores layers that it does not support, and accepts weights of another size. Two checks prevent that:

- The code of the backend `hf` applies the adapter to an empty skeleton of the checkpoint, and reports a misfit.
- After the engine has loaded the adapter, a layer of the adapter that the engine ignores is an error.
"""

import json
from typing import TYPE_CHECKING, Any

from icl.errors import ModelError
from icl.models.hf.adapter import CONFIG, LoraAdapter

if TYPE_CHECKING:
    from icl.models.hf.model import HF

ADAPTER_ID = 1
"""vLLM's id of the only adapter of an engine."""

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of `max_lora_rank` that vLLM supports."""


def arguments(adapter: LoraAdapter) -> dict[str, Any]:
    """Engine arguments for an adapter. Raises ModelError if its rank is too large, or it has more than LoRA."""
    config = json.loads((adapter.folder / CONFIG).read_text(encoding="utf-8"))
    if names := config.get("modules_to_save"):
        raise ModelError(
            f"{adapter.key}: {adapter.folder} has whole modules ({', '.join(names)}), which vLLM does not exchange by "
            "request. Use `merge: true`."
        )
    rank = max([int(config.get("r", 0)), *map(int, (config.get("rank_pattern") or {}).values())])
    max_rank = next((size for size in RANKS if size >= rank), None)
    if max_rank is None:
        raise ModelError(
            f"{adapter.key}: {adapter.folder} has rank {rank}, but vLLM supports at most {RANKS[-1]}. Use "
            "`merge: true`."
        )
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": max_rank}


def check(adapter: LoraAdapter, hf: "HF") -> None:
    """Raises ModelError if the adapter is of another model. Reads no weights of the model."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        skeleton = AutoModelForImageTextToText.from_config(hf.checkpoint.config, trust_remote_code=hf.trust_remote_code)
    adapter.apply_to(skeleton, hf.path, merge=False)


def load(adapter: LoraAdapter, llm: Any) -> Any:
    """Loads an adapter into the engine.

    Returns:
        vLLM's LoRARequest, which every request needs.

    Raises:
        ModelError: vLLM cannot apply the whole adapter.
    """
    from vllm.lora.request import LoRARequest

    lora_request = LoRARequest("adapter", ADAPTER_ID, str(adapter.folder))
    try:
        llm.llm_engine.add_lora(lora_request)
    except Exception as error:  # an engine process may raise anything
        raise ModelError(f"{adapter.key}: vLLM does not accept {adapter.folder}: {error}") from error
    layers: list[str] = llm.collective_rpc("lockstep_unsupported_layers", args=(ADAPTER_ID,))[0]
    if layers:
        raise ModelError(
            f"{adapter.key}: vLLM does not support {len(layers)} of the layers that {adapter.folder} changes, such as "
            f"{layers[0]}, and would ignore them. Use `merge: true`, or the backend 'hf'."
        )
    return lora_request
