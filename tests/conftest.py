"""Settings of the whole test suite.

A skip is a test of something that users have and this machine lacks. `make test` installs all of it except a GPU and
files of others, so in CI (`CI=true`) and with `ICL_STRICT_SKIPS=1` a run with another skip fails. A case that does not
apply is no test: leave its parameter out, or mark it `applies(False)`.
"""

import gc
import os
import re
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing import forkserver

import psutil
import pytest

# Set before anything imports huggingface_hub, which reads it once: a lookup without a network retries for two minutes.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

STRICT = os.environ.get("ICL_STRICT_SKIPS", "1" if os.environ.get("CI") == "true" else "") == "1"
ALLOWED = re.compile(r"\b(CUDA|GPU|PUBLISHED_[A-Z]+)\b")
"""In the reason of a skip for the lack of a GPU, or of files of others, whose folder a variable of this name says."""


SHOWS_TIMES = os.environ.get("ICL_TEST_TIMES", "1" if os.environ.get("CI") == "true" else "") == "1"
STARTED = pytest.StashKey[float]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "applies(condition): no test if the condition is false")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if any(not mark.args[0] for mark in item.iter_markers("applies"))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Collects no garbage meanwhile: objects of imports stay, and the search takes 3 of 17 CPU seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


HIDDEN = [0]
"""The number of modules whose objects collections of garbage do not visit."""


def pytest_collection_finish() -> None:
    """What is alive now stays: a collection of garbage visits .5 million objects otherwise, which takes a second."""
    gc.collect()
    gc.freeze()
    HIDDEN[0] = len(sys.modules)


def pytest_unconfigure() -> None:
    """Shows them again, or extension modules report leaks when the interpreter ends."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="module")
def hide_imported_objects() -> None:
    """The same for what earlier files have imported, since a freed model or a halved batch collects garbage too."""
    if len(sys.modules) > HIDDEN[0] + 100:
        pytest_collection_finish()


@pytest.fixture(autouse=True, scope="session")
def files_without_fsync() -> Iterator[Callable[[int], None]]:
    """A process that is killed loses nothing that it wrote: fsync is for a loss of power, 15 ms for each file.

    Yields the real one.
    """
    real = os.fsync
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield real


def refused_skips(config: pytest.Config) -> list[str]:
    """The places and reasons of skips that are not allowed. Reports of xdist's workers come to the controller."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reports = reporter.stats.get("skipped", []) if STRICT and reporter is not None else []
    texts = [f"{report.nodeid}: {report.longrepr[2]}" for report in reports if isinstance(report.longrepr, tuple)]
    return [text for text in texts if not ALLOWED.search(text.partition(": ")[2])]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a strict run with skips, and stops the vLLM servers that tests have shared."""
    if "server_process" in sys.modules:
        sys.modules["server_process"].stop_shared()
    if refused_skips(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def cpu_seconds() -> float:
    """The CPU seconds of this process and of the children that have ended, also of those of the fork server."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    forked = sum(psutil.Process(server).cpu_times()[:4]) if server else 0.0
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) + forked


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    item.stash[STARTED] = cpu_seconds()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "teardown":
        report.user_properties.append(("cpu_seconds", cpu_seconds() - item.stash[STARTED]))
    return report


def show_slowest(reporter: pytest.TerminalReporter) -> None:
    """Prints the 60 tests and the 20 files that cost most. CPU seconds, because other processes stretch wall time."""
    tests, files = Counter[str](), Counter[str]()
    for report in (report for reports in reporter.stats.values() for report in reports):
        for name, seconds in getattr(report, "user_properties", ()):
            if name == "cpu_seconds":
                tests[report.nodeid] += seconds
                files[report.nodeid.partition("::")[0]] += seconds
    for kind, seconds, number in (("tests", tests, 60), ("files", files, 20)):
        reporter.section(f"the {number} slowest {kind}, of {sum(seconds.values()):.0f} CPU seconds")
        for name, used in seconds.most_common(number):
            reporter.line(f"{used:7.1f} s  {name}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if SHOWS_TIMES:
        show_slowest(terminalreporter)
    if texts := refused_skips(config):
        terminalreporter.section(f"{len(texts)} skips of tests that need no GPU: `make test` installs what they need")
        for text in texts:
            terminalreporter.line(text)
