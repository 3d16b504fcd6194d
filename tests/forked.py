"""Commands in processes of their own, without the seconds in which each imports PyTorch and transformers.

They are forked from a process that has imported libraries and nothing of the toolkit, so the toolkit, the working
folder, the variables, the arguments and the module path are new in each. A test of how a process starts, ends or is
killed needs a real one.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LIBRARIES = ["torch", "transformers", "transformers.modeling_utils", "transformers.masking_utils", "pandas", "pyarrow"]
LIBRARIES += ["scipy.stats", "typer", "rich.console", "ruamel.yaml", "huggingface_hub", "PIL.Image", "pytest"]


def call_forked(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], limit: float = 300
) -> "subprocess.CompletedProcess[str]":
    """Runs `python FILE ...`, or a module as `icl ...`, in a folder. `PYTHONPATH` says where the toolkit is.

    Raises:
        subprocess.TimeoutExpired: After `limit` seconds.
    """
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    with tempfile.TemporaryDirectory() as logs:
        process = context.Process(target=_run, args=(list(command), str(folder), dict(environment), logs))
        process.start()
        process.join(limit)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(command, limit)
        texts = [Path(logs, name).read_text(encoding="utf-8") for name in ("out", "err")]
        return subprocess.CompletedProcess(command, process.exitcode, *texts)


def _run(command: list[str], folder: str, environment: dict[str, str], logs: str) -> None:
    """What a new interpreter does with a command."""
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(os.path.join(logs, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    program, *words = command
    first = folder if program == "python" else str(Path(sys.executable).parent)
    libraries = [path for path in sys.path if path.endswith(("site-packages", ".zip", "lib-dynload"))]
    libraries += [os.path.dirname(os.__file__)]
    sys.path[:] = [first, *environment["PYTHONPATH"].split(os.pathsep), *libraries]
    try:
        if program == "python":
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        else:
            sys.argv = [program, *words]
            runpy.run_module(program, run_name="__main__")
    finally:
        atexit._run_exitfuncs()
