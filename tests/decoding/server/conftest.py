import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "lockstep"))
from environment import engine_processes, garbage_of_engines_alone, inspect_models_here  # noqa: F401
