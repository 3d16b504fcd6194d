import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from environment import engine_processes, garbage_of_engines_alone, inspect_models_here  # noqa: F401


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints what tests have measured (`record_property`)."""
    lines = [
        f"{report.nodeid.rpartition('::')[2]}: {value}"
        for report in terminalreporter.stats.get("passed", ())
        for name, value in report.user_properties
        if name == "measured"
    ]
    if lines:
        terminalreporter.section("measured")
        terminalreporter.write("\n".join(lines) + "\n")
