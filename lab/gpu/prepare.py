"""Makes the checkpoints of random weights: `python -m lab.gpu.prepare BENCH_JSON RESULT_JSON`.

A process of its own, because it draws random numbers on the GPU. The result is {"models": name -> folder, "notes":
[sentence]}, written after each checkpoint.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from icl.errors import ICLError
from icl.models.hf.memory import GIB
from icl.parameter_files import cache_folder
from lab.gpu.check import Bench
from lab.gpu.random_checkpoint import (
    FULL,
    NARROW,
    Sizes,
    layers_that_fit,
    shape_of,
    with_layers,
    write_checkpoint,
)

ENOUGH_DISK = 30 * GIB
"""Bytes that both checkpoints take, and room for other files."""


def scratch_folder(out: Path) -> Path:
    """A new folder for the checkpoints: where there is room for them, else where there is most."""
    parents = [Path(tempfile.gettempdir()), cache_folder(), out]
    for parent in parents:
        parent.mkdir(parents=True, exist_ok=True)
    free = {parent: shutil.disk_usage(parent).free for parent in parents}
    parent = next((parent for parent in parents if free[parent] >= ENOUGH_DISK), max(parents, key=free.__getitem__))
    return Path(tempfile.mkdtemp(prefix="icl-doctor-", dir=parent))


def make_models(bench: Bench, gpu_bytes: float, result: Path, full: Sizes = FULL, narrow: Sizes = NARROW) -> None:
    """Writes the checkpoints that fit. With `--quick` only the one with few layers.

    Args:
        bench: What the checks work with.
        gpu_bytes: Free memory of the GPU.
        result: The file of the result.
        full: Sizes of the large checkpoint.
        narrow: Sizes of the one with few layers.
    """
    models, notes = dict[str, str](), list[str]()
    for name, sizes in (("narrow", narrow), ("full", full)):
        if bench.is_quick and name == "full":
            notes.append("--quick: the checkpoint with few layers stands for the one of 8B shapes")
            break
        layers = layers_that_fit(sizes, gpu_bytes, shutil.disk_usage(bench.folder).free)
        fitting = with_layers(sizes, layers)
        if not layers:
            notes.append(f"{name}: not even one layer fits the GPU and the disk of {bench.folder.parent}")
            continue
        models[name] = str(write_checkpoint(bench.folder / name, fitting, bench.device))
        less = f", fewer than {sizes.layers} because GPU or disk are too small" if layers < sizes.layers else ""
        size = shape_of(fitting).parameters / 1e9
        notes.append(f"{name}: {size:.2f} billion random weights, {layers} layers{less}")
        result.write_text(json.dumps({"models": models, "notes": notes}), encoding="utf-8")
    if not models:
        raise ICLError("; ".join(notes))
    result.write_text(json.dumps({"models": models, "notes": notes}), encoding="utf-8")


def main(bench_file: str, result_file: str) -> None:
    """Makes the checkpoints for the free memory of the first GPU."""
    import torch

    bench = Bench.from_dict(json.loads(Path(bench_file).read_text(encoding="utf-8")))
    try:
        make_models(bench, torch.cuda.mem_get_info()[0], Path(result_file))
    except ICLError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:3])
