"""Benchmarks: one module a part, each with `rows()`; `make bench` prints them all."""

from collections.abc import Iterator
from contextlib import contextmanager

Row = tuple[str, str, str]
"""What was measured, the figure, and its goal."""


class _Settings:
    quick = False


def quick() -> None:
    """From now on one round of everything: shows that the parts run; the figures are rough."""
    _Settings.quick = True


def rounds(usual: int) -> int:
    """How often a part repeats what it times."""
    return 1 if _Settings.quick else usual


@contextmanager
def one_thread() -> Iterator[None]:
    """Figures that do not depend on how many cores are free."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
