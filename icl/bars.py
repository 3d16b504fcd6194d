"""Quiet loading: the toolkit shows its own progress, and transformers' bars would cut it in two."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_bars(really: bool = True) -> Iterator[None]:
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
