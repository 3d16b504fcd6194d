"""What vLLM need not say: notes on settings that the toolkit chose, and one that comes with every picture on a CPU.

Warnings about anything else stay, as do all errors.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

EXPECTED = (
    "CPU backend doesn't allow to use `torch.set_num_threads`",  # said once for every prompt with pictures
    "The global random seed is set to",
    "Enforce eager set",
    "Inductor compilation was disabled by user settings",
    "Triton is not installed. triton-cpu is expected",
    "Reset SSM cache type",
    "Using custom scheduler class",
)
"""How they begin."""


class Expected(logging.Filter):
    """Keeps back what was to be expected."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or not record.getMessage().startswith(EXPECTED)


def hushed() -> None:
    """From now on, in this process, whose vLLM is imported already."""
    for handler in logging.getLogger("vllm").handlers:
        if not any(isinstance(one, Expected) for one in handler.filters):
            handler.addFilter(Expected())


@contextmanager
def no_deprecations() -> Iterator[None]:
    """Nothing of what the libraries of an engine that starts will do otherwise some day."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
