"""Which of vLLM's warnings a run passes on."""

import logging

import pytest

from icl.models.vllm.quiet import Expected, hushed


@pytest.fixture
def said() -> list[str]:
    """What a handler of vLLM's lets through."""
    told: list[str] = []

    class Ears(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    logger, ears = logging.getLogger("vllm"), Ears()
    logger.addHandler(ears)
    hushed()
    hushed()
    assert [type(one) for one in ears.filters] == [Expected]
    yield told
    logger.removeHandler(ears)


def test_what_follows_from_the_toolkits_own_settings_is_kept_back_and_nothing_else(said: list[str]) -> None:
    logger = logging.getLogger("vllm.v1.worker.cpu_worker")
    threads = "CPU backend doesn't allow to use `torch.set_num_threads` after the thread binding, skip it."
    logger.warning(threads)
    logger.warning("Using custom scheduler class %s.", "decoding.lockstep.scheduler.LockstepScheduler")
    logger.warning("%s is not found in LD_PRELOAD.", "libtcmalloc")
    logger.error(threads)
    assert said == ["libtcmalloc is not found in LD_PRELOAD.", threads]
