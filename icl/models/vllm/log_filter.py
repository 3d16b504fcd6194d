"""What vLLM need not say: notes on settings that the toolkit chose, and one that comes with every image on a CPU.

Warnings about anything else stay, as do all errors.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

EXPECTED = {
    "vllm.v1.worker.cpu_worker": (
        "CPU backend doesn't allow to use `torch.set_num_threads`",  # said once for every prompt with images
    ),
    "vllm.engine.arg_utils": ("The global random seed is set to",),
    "vllm.config.vllm": ("Enforce eager set", "Inductor compilation was disabled by user settings"),
    "vllm.config.scheduler": ("Using custom scheduler class",),
    "vllm.platforms.cpu": ("Triton is not installed. triton-cpu is expected", "Reset SSM cache type"),
}
"""Who says it -> how it begins."""


class Expected(logging.Filter):
    """Keeps back what was to be expected."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or not record.getMessage().startswith(EXPECTED[record.name])


def hushed() -> None:
    """From now on, in this process. At the loggers themselves: vLLM makes its handlers anew when it pleases."""
    for name in EXPECTED:
        logger = logging.getLogger(name)
        if not any(isinstance(one, Expected) for one in logger.filters):
            logger.addFilter(Expected())


@contextmanager
def no_deprecations() -> Iterator[None]:
    """Nothing of what the libraries of an engine that starts will do otherwise some day."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
