"""What Windows and macOS lack: modules are imported, and POSIX functions called, only with a fallback."""

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from forked import call_forked

ROOT = Path(__file__).parent.parent
PACKAGES = ("icl", "prompts", "retrievers", "decoding", "experiments")
POSIX_MODULES = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty")
POSIX_NAMES = {
    *("chown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getpgid", "getuid", "killpg"),
    *("mkfifo", "mknod", "nice", "openpty", "pipe2", "sched_getaffinity", "setsid", "statvfs", "sysconf", "uname"),
    *("wait3", "wait4", "WNOHANG", "getppid"),
}
PORTABLE_SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIG_DFL", "SIG_IGN"}
SKIPPED = (
    *(".vllm.", ".lockstep.", "decoding.server.", "launch.ray.", ".lmms_eval_model."),  # another environment
    "__main__.",  # programs
)
WITHOUT_POSIX = """
import builtins, importlib, pkgutil, sys
import torch, transformers, datasets, pandas, typer  # with modules of this system
blocked, packages, real = {blocked!r}, {packages!r}, builtins.__import__
def without(name, globals=None, locals=None, fromlist=(), level=0):
    if name in blocked and globals and globals.get("__name__", "").split(".")[0] in packages:
        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = without
for top in packages:
    for info in pkgutil.walk_packages(importlib.import_module(top).__path__, top + "."):
        if any(part in info.name + "." for part in {skipped!r}):
            continue
        importlib.import_module(info.name)
print("all imported")
"""


@cache
def sources() -> tuple[tuple[str, ast.Module], ...]:
    """The modules in which the text has a name of `os` or `signal`, or a `kill`."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}
    return tuple((name, ast.parse(text)) for name, text in texts.items() if re.search(r"\b(os|signal|kill)\b", text))


def attributes(tree: ast.Module, module: str) -> Iterator[ast.Attribute]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == module:
            yield node


def guarded_names(tree: ast.Module) -> Iterator[str]:
    """Attributes that a module looks up by `hasattr` or `getattr`, or whose absence it catches."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("hasattr", "getattr"):
            yield str(getattr(node.args[1], "value", ""))
        if isinstance(node, ast.Try) and any("AttributeError" in ast.dump(handler) for handler in node.handlers):
            yield from (inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute))


def test_all_modules_import_without_posix_modules(tmp_path: Path) -> None:
    script = WITHOUT_POSIX.format(blocked=POSIX_MODULES, packages=PACKAGES, skipped=SKIPPED)
    (tmp_path / "imports.py").write_text(script)
    done = call_forked(("python", "imports.py"), tmp_path, {**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout.strip() == "all imported", done.stderr[-2000:]


def test_posix_functions_are_called_only_where_they_are_looked_up_first() -> None:
    calls = []
    for name, tree in sources():
        guarded = set(guarded_names(tree))
        uses = [node for node in attributes(tree, "os") if node.attr in POSIX_NAMES - guarded]
        uses += [n for n in attributes(tree, "signal") if n.attr.startswith("SIG") and n.attr not in PORTABLE_SIGNALS]
        calls += [f"{name}:{node.lineno} {node.attr}" for node in uses]
    assert calls == []


def test_no_process_is_probed_with_signal_0() -> None:
    """On Windows signal 0 is Ctrl-C."""
    probes = [
        f"{name}:{call.lineno}"
        for name, tree in sources()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "kill"
        and len(call.args) == 2
        and getattr(call.args[1], "value", None) == 0
    ]
    assert probes == []


def test_a_console_without_unicode_prints_what_it_can(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.cli.main", "ls", "strategy", "vcd"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "temperature: ?" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="lists what POSIX has")
def test_the_lists_are_what_posix_has() -> None:
    assert all(hasattr(os, name) for name in POSIX_NAMES)
    assert all(hasattr(signal, name) for name in PORTABLE_SIGNALS)
