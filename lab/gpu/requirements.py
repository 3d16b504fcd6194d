"""What a check needs of the machine. Nothing here starts CUDA in this process."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec

from icl.errors import ModelError
from icl.models.vllm.model import has_gpu


def gpu() -> str:
    """Why no GPU can be used, or ''."""
    return "" if has_gpu() else "needs a GPU that torch can use, and this machine has none"


def two_gpus() -> str:
    """Why two GPUs cannot be used, or ''."""
    import torch

    count = torch.cuda.device_count() if has_gpu() else 0
    return "" if count > 1 else f"needs two GPUs, and torch sees {count}"


def vllm() -> str:
    """Why vLLM cannot be used, or ''."""
    return "" if find_spec("vllm") else "vLLM is not installed here (pip install 'mm-icl[vllm]')"


def hf() -> str:
    """Why models of `hf` cannot run in this environment, or ''."""
    from icl.models.hf.conventions import check_version

    try:
        check_version()
    except ModelError as error:
        return str(error)
    return ""


def bitsandbytes() -> str:
    """Why bitsandbytes cannot be used, or ''."""
    return "" if find_spec("bitsandbytes") else "bitsandbytes is not installed (pip install 'mm-icl[quantization]')"


REQUIREMENTS: Mapping[str, Callable[[], str]] = {
    "gpu": gpu,
    "two gpus": two_gpus,
    "vllm": vllm,
    "hf": hf,
    "bitsandbytes": bitsandbytes,
}
"""Name -> why the machine lacks it, or ''."""


def reason_not_here(needs: "tuple[str, ...] | list[str]") -> str:
    """The first requirement that the machine lacks, as a sentence; '' if it has all."""
    return next((reason for name in needs if (reason := REQUIREMENTS[name]())), "")
