"""The command `icl`, also as `python -m icl`."""

import gc
import sys


def main() -> int:
    """Runs the command of this process. Returns its exit status."""
    gc.set_threshold(50_000)  # imports make many objects and no cycles: a tenth of the time of a short command
    from experiments.cli.main import main as run_command

    status = run_command()
    gc.freeze()  # the interpreter's last collections then visit nothing: a further tenth
    return status


if __name__ == "__main__":
    sys.exit(main())
