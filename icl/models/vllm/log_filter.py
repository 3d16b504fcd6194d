"""Hides vLLM log messages that follow from the toolkit's own settings, and a CPU message that repeats per prompt.

Other warnings and all errors stay visible.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

EXPECTED = {
    "vllm.v1.worker.cpu_worker": (
        "CPU backend doesn't allow to use `torch.set_num_threads`",  # repeated for every prompt with images
    ),
    "vllm.engine.arg_utils": ("The global random seed is set to",),
    "vllm.config.vllm": ("Enforce eager set", "Inductor compilation was disabled by user settings"),
    "vllm.config.scheduler": ("Using custom scheduler class",),
    "vllm.platforms.cpu": ("Triton is not installed. triton-cpu is expected", "Reset SSM cache type"),
}
"""Name of a logger -> start of its hidden messages."""


class ExpectedMessageFilter(logging.Filter):
    """Log filter that drops the expected messages."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or not record.getMessage().startswith(EXPECTED[record.name])


def hide_expected_messages() -> None:
    """Adds the filter to vLLM's loggers. It is not added to handlers, because vLLM may replace them."""
    for name in EXPECTED:
        logger = logging.getLogger(name)
        if not any(isinstance(log_filter, ExpectedMessageFilter) for log_filter in logger.filters):
            logger.addFilter(ExpectedMessageFilter())


@contextmanager
def hide_future_warnings() -> Iterator[None]:
    """Hides FutureWarnings while an engine starts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
