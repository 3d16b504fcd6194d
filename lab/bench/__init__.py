"""Benchmarks: one module per part, each with a function `rows()`. `make bench` prints all rows."""

from collections.abc import Iterator
from contextlib import contextmanager

Row = tuple[str, str, str]
"""(what was measured, the figure, its goal)."""


class _Settings:
    quick = False


def quick() -> None:
    """Measures one round from now on, which shows that the parts run."""
    _Settings.quick = True


def rounds(usual: int) -> int:
    """The number of rounds that a part measures."""
    return 1 if _Settings.quick else usual


@contextmanager
def one_thread() -> Iterator[None]:
    """Restricts torch to one thread, so that figures do not depend on the number of free cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
