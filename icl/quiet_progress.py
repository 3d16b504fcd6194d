"""Hides progress bars of libraries, which would break up the toolkit's own progress display.

Slow steps that the toolkit does not report, such as a download or a large data set, keep their bar on a terminal.
"""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

SMALL_SOURCE_BYTES = 2**28
"""Sources below this size, in bytes, load too fast to need a bar."""


@contextmanager
def hide_transformers_progress(really: bool = True) -> Iterator[None]:
    """Hide the progress bars of transformers and restore the setting afterwards. `really=False` changes nothing."""
    from transformers.utils import logging

    if not really or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


@contextmanager
def hide_hub_progress(quick: bool) -> Iterator[None]:
    """Hide the progress bars of `huggingface_hub` for small files or without a terminal, and restore the setting."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled() or not (quick or not sys.stderr.isatty()):
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def hide_datasets_progress(quick: bool) -> Iterator[None]:
    """Hide the progress bars of `datasets` for a quick source or without a terminal, and restore the setting."""
    import datasets

    if datasets.are_progress_bars_disabled() or not (quick or not sys.stderr.isatty()):
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


@contextmanager
def hide_bars_of_logs() -> Iterator[None]:
    """Hide what is written to stderr unless it is a terminal, for libraries without a switch for their bars."""
    if sys.stderr.isatty():
        yield
        return
    with redirect_stderr(io.StringIO()):
        yield
