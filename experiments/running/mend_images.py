"""Save images of a run's samples again that are missing or damaged in its folder: prompts are built, not answered."""

from collections.abc import Mapping
from threading import Event

from experiments.contexts.contexts import Retrieval
from experiments.grid.grid import Grid
from experiments.running.failing_arms import FailingArms
from experiments.running.image_store import ImageStore
from experiments.running.runner import cell_groups
from experiments.running.windows import Windows
from experiments.stats.formatting import format_count
from experiments.store.finished_index import FILE
from experiments.store.store import Store


def mend_images(store: Store, grid: Grid, of_samples: Mapping[str, tuple[str, str]]) -> str:
    """Saves the missing images. Returns a sentence on what was saved or could not be saved; '' if all were there.

    Args:
        store: The run directory.
        grid: The cells.
        of_samples: For each digest of an image in a prompt, cell and query of a sample.
    """
    images = ImageStore(store.folder / "images")
    lost: dict[str, set[str]] = {cell.digest: set() for cell in grid.cells}
    for digest, (cell, query) in of_samples.items():
        if digest not in images.digests:
            lost[cell].add(query)
    before = len(images.digests)
    if any(lost.values()) and images.used < images.max_bytes:
        for cells in (cells for model in grid.models for cells in cell_groups(grid, model)):
            of_group = {cell.digest: lost[cell.digest] for cell in cells}
            windows = Windows(cells, of_group, Retrieval(cells[0].task, cells[0].model), FailingArms(cells, 1), Event())
            if any(of_group.values()) and windows.may_run_ahead:  # without the model
                for window in windows:
                    prompts = (item.prompt for _, item in window if item.prompt is not None)
                    images.save(image for prompt in prompts for image in prompt.images if image.digest in of_samples)
    images.close()
    if images.problem:  # the next run reads all samples, and tries again
        (store.folder / FILE).unlink(missing_ok=True)
    if not images.problem and len(images.digests) == before:
        return ""
    count = format_count(len(images.digests) - before, "image")
    return images.problem or f"{count} of the report, missing or damaged, saved again."
