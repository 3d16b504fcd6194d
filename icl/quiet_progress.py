"""Quiet loading: the toolkit shows its own progress, and bars of the libraries below would cut it in two.

What may take long and is told by nothing else (a download, a large data set) keeps its bar, on a terminal.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

SMALL_SOURCE_BYTES = 2**28
"""Bytes of files that are read in no time that a bar would have to fill."""


@contextmanager
def hide_transformers_progress(really: bool = True) -> Iterator[None]:
    """No progress bar of transformers', and its setting as it was afterwards. really: False changes nothing."""
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
def hide_datasets_progress(quick: bool) -> Iterator[None]:
    """No progress bar of `datasets` while a quick source is read, or where nobody watches; afterwards as it was."""
    import datasets

    if datasets.are_progress_bars_disabled() or not (quick or not sys.stderr.isatty()):
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
