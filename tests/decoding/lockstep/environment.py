"""Sets the environment variables that vLLM reads on import, for tests on a CPU, if vLLM is installed.

ICL_TEST_RUNNER=2 chooses vLLM's second model runner, and ICL_TEST_ASYNC=1 plans a step while the step before runs.
`make test-vllm-long` and `test_runners.py` set them.
"""

import gc
import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

if importlib.util.find_spec("vllm") is not None:
    os.environ.update(
        {
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_USE_V2_MODEL_RUNNER": "0",
        }
    )
    if os.environ.get("ICL_TEST_RUNNER") == "2" and "vllm" not in sys.modules:
        import second_runner  # noqa: F401


@pytest.fixture(autouse=True, scope="session")
def inspect_models_here() -> None:
    """Lets vLLM inspect model classes in this process. It starts one for each, 10 s of CPU time, to protect CUDA."""
    if "vllm" in sys.modules:
        from vllm.model_executor.models import registry

        registry._run_in_subprocess = lambda inspect: inspect()


@pytest.fixture(autouse=True, scope="session")
def garbage_of_engines_alone() -> Iterator[None]:
    """Hides what is alive from collections of garbage (tests/conftest.py) also after an engine has stopped.

    vLLM collects seven times between the start and the stop of an engine, which takes .4 s each if all objects are
    visited. It hides them after a start, and shows them at a stop. Here they stay hidden, and a start visits them once.
    """
    show, hide = gc.unfreeze, gc.freeze

    def collect_and_hide() -> None:
        show()
        gc.collect()
        hide()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "freeze", collect_and_hide)
        patch.setattr(gc, "unfreeze", lambda: None)
        yield


def importing_vllm() -> Any:
    """A context whose processes are forked from one that has imported vLLM, and nothing else of the tests."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vllm.entrypoints.launchers.api_server.entry", "vllm.v1.engine.core"])
    return context


@pytest.fixture
def engine_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines run in processes of their own, as on a GPU.

    They are forked from a process that has imported vLLM. With `ICL_TEST_MATRIX` or `ICL_TEST_RUNNER` they are new
    interpreters, as under `vllm serve`. A fork of this process waits forever in its first parallel operation, because
    the threads of OpenMP that a model has started here do not exist in it.
    """
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    if not {"ICL_TEST_MATRIX", "ICL_TEST_RUNNER"} & set(os.environ):
        monkeypatch.setattr("vllm.v1.engine.utils.get_mp_context", importing_vllm)


def allow_async() -> None:
    """Lets vLLM plan steps ahead on a CPU, where it turns that off. The engine then has two batches in flight."""
    from vllm.platforms.cpu import CpuPlatform

    check = CpuPlatform.check_and_update_config.__func__
    if getattr(check, "keeps_async", False):
        return

    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        is_async = vllm_config.scheduler_config.async_scheduling
        check(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = is_async

    check_and_update_config.keeps_async = True  # type: ignore[attr-defined]
    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)
