"""The process of one check: `python -m lab.gpu.process MODULE BENCH_JSON RESULT_JSONL`.

Each figure is one line of the result file as soon as it is measured, so that those of a check that dies are not lost.
The last line says how the check ended.
"""

import json
import logging
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from icl.errors import ICLError
from icl.memory import first_line
from lab.gpu.check import Bench, NotHereError, load_check

MAX_CHARACTERS = 400


def main(module: str, bench_file: str, result_file: str) -> None:
    """Runs the check of a module and writes its result."""
    bench = Bench.from_dict(json.loads(Path(bench_file).read_text(encoding="utf-8")))
    with Path(result_file).open("a", encoding="utf-8") as file:
        try:
            for figure in load_check(module).run(bench):
                _write(file, {"figure": asdict(figure)})
            _write(file, {"end": "ok"})
        except NotHereError as error:
            _write(file, {"end": "not here", "text": str(error)})
        except Exception as error:  # noqa: BLE001  any error of a check is its red row
            traceback.print_exc()
            name = "" if isinstance(error, ICLError) else f"{type(error).__name__}: "
            _write(file, {"end": "red", "text": (name + first_line(error))[:MAX_CHARACTERS]})


def _write(file: TextIO, line: dict[str, Any]) -> None:
    file.write(json.dumps(line) + "\n")
    file.flush()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main(*sys.argv[1:4])
