"""Work on the host for later prompts, in a thread, while the model decodes.

    thread    images of batch 2      images of batch 3
    host      open 1 | decode 1      open 2 | decode 2      open 3 ...
                     ^ start                ^ start
                              wait ^                 wait ^

The thread only fills caches of the model (`icl.models.base.LogitModel.prepare_ahead`), with the references of the next
prompts. It stands still while the first prompts of a batch are prefilled, so no work is done twice. What fails in it
fails again where the prompt is used, and is reported there.
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

from icl.models.base import LogitModel
from icl.types import Prompt

logger = logging.getLogger(f"icl.{__name__}")

MAX_IMAGES = 64
"""Images that are prepared ahead. More would not stay in the model's cache."""

CHUNK = 4
"""Prompts between two looks at whether to stop."""


class ReadAhead:
    """One thread that prepares prompts for a model."""

    def __init__(self, model: LogitModel) -> None:
        self.model = model
        self.is_stopped = Event()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self.work: Future[None] | None = None

    def start(self, prompts: Sequence[Prompt]) -> None:
        """Starts to prepare prompts with at most MAX_IMAGES images together."""
        chosen, num_images = [], 0
        for prompt in prompts:
            num_images += len(prompt.images)
            if num_images > MAX_IMAGES:
                break
            chosen.append(prompt)
        if chosen and num_images:
            self.work = self.thread.submit(self._prepare, chosen)

    def wait(self) -> None:
        """Waits until everything that was started is prepared."""
        if self.work is not None:
            self.work.result()
            self.work = None

    def _prepare(self, prompts: Sequence[Prompt]) -> None:
        for start in range(0, len(prompts), CHUNK):
            if self.is_stopped.is_set():
                return
            try:
                self.model.prepare_ahead(prompts[start : start + CHUNK])
            except Exception as error:  # noqa: BLE001 - raised again where the prompt is used, and handled there
                logger.debug("a prompt cannot be prepared ahead: %s", error)


@contextmanager
def read_ahead(model: LogitModel) -> Iterator[ReadAhead]:
    """A thread for the block. An error or an interrupt ends it after the prompts that it is at."""
    ahead = ReadAhead(model)
    try:
        yield ahead
    finally:
        ahead.is_stopped.set()
        ahead.thread.shutdown(cancel_futures=True)
