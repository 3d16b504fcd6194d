"""Mutation testing: `python tests/mutants.py decoding/formulas --sample 50`.

A mutant is a module with one small change: another operator, constant or comparison, a negated condition, or a dropped
statement. It is killed if the tests of its module fail. The script lists the survivors: lines that no test checks, or
changes that mean the same. Each mutant runs in a copy of the repository, in a process forked after the libraries were
imported. `own_tests` names the tests of a module; `--tests` replaces them.
"""

import argparse
import ast
import builtins
import gc
import importlib
import importlib.machinery
import inspect
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = ("icl", "prompts", "retrievers", "decoding", "experiments")
FOLDER_TESTS: dict[str, tuple[str, ...]] = {
    "decoding/strategies": (
        "tests/decoding/test_properties.py",
        "tests/decoding/test_strategies.py",
        "tests/test_component_digests.py",
    ),
    "decoding/controls": (
        "tests/decoding/test_controls.py",
        "tests/decoding/test_default_controls.py",
        "tests/decoding/test_strategies.py",
        "tests/test_component_digests.py",
    ),
    "decoding/arms": ("tests/decoding/arms", "tests/decoding/test_default_controls.py"),
    "decoding/engine": ("tests/decoding/engine",),
    "decoding/engine/token_choice.py": ("tests/decoding/test_logits_processors.py",),
    "decoding/arms/arm.py": ("tests/decoding/test_logits_processors.py",),
    "retrievers/machinery": (
        "tests/retrievers/machinery",
        "tests/retrievers/embedders",
        "tests/retrievers/test_wrappers.py",
    ),
    "retrievers/rerankers": ("tests/retrievers/rerankers",),
    "experiments/stats": ("tests/experiments/stats",),
    "experiments/analyses": tuple(
        f"tests/experiments/analyses/{path.name}"
        for path in sorted((ROOT / "tests/experiments/analyses").glob("test_*.py"))
        if path.name != "test_quantization.py"
    ),
    "experiments/store": ("tests/experiments/store",),
    "experiments/results": ("tests/experiments/results",),
    "experiments/running": ("tests/experiments/running",),
    "experiments/stopping": ("tests/experiments/stopping",),
}
"""Folder or module -> tests that run over all of its modules, after those that import or name the module."""
SLOW_TESTS = ("test_on_models.py", "test_lazy_branches_on_models.py", "test_kill.py", "test_fuzz.py")
"""Test files that check the whole toolkit and belong to no module."""
SLOW_FOLDERS = (
    "tests/decoding/lockstep",
    "tests/decoding/server",
    "tests/experiments/launch",
    "tests/lab/tiny",
)
"""Folders whose tests start processes. They belong to the modules of the same folder only."""

OPERATORS: dict[type[ast.AST], type[Any]] = dict(
    (pair, pair[::-1])[turn]
    for pair in (
        *((ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.BitAnd, ast.BitOr), (ast.LShift, ast.RShift)),
        *((ast.And, ast.Or), (ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot)),
        (ast.In, ast.NotIn),
    )
    for turn in (0, 1)
) | dict.fromkeys((ast.FloorDiv, ast.Mod, ast.Pow, ast.MatMult, ast.BitXor), ast.Mult)
"""Operator -> the one that takes its place."""
MARK = "_record_call"
"""The builtin that marked functions call."""
LARGE = 1e6
"""A constant above it is doubled, because adding one might not change it."""
DROPPED = (ast.AugAssign, ast.Raise, ast.Continue, ast.Break, ast.Return, ast.Assign, ast.Delete)
"""Statements that are dropped within a block."""


@dataclass(frozen=True)
class Mutant:
    """One change of one module.

    Attributes:
        module: Path relative to the repository.
        function: First line of the function that contains the change, or 0.
        line: Line of the change.
        start: First byte of the source that `text` replaces.
        end: First byte after it.
        text: The changed code.
        before: The code before the change.
    """

    module: str
    function: int
    line: int
    start: int
    end: int
    text: str
    before: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {_shorten(self.before)}  ->  {_shorten(self.text)}"

    def source(self, original: bytes) -> bytes:
        """The source of the mutated module."""
        return original[: self.start] + self.text.encode() + original[self.end :]


class _Finder(ast.NodeVisitor):
    """Finds the mutants of a module."""

    def __init__(self, module: str, source: bytes) -> None:
        self.module, self.source, self.function = module, source, 0
        self.mutants: list[Mutant] = []
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def replace(self, node: ast.expr | ast.stmt, text: str) -> None:
        start = self.starts[node.lineno - 1] + node.col_offset
        end = self.starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        before = self.source[start:end].decode()
        self.mutants.append(Mutant(self.module, self.function, node.lineno, start, end, text, before))

    def visit_block(self, body: Sequence[ast.stmt]) -> None:
        """Statements within `if`, `for`, `with` or `try`: those that do something are dropped."""
        for statement in body:
            if isinstance(statement, DROPPED):
                self.replace(statement, "pass")

    def visit_BinOp(self, node: ast.BinOp) -> None:
        operator = OPERATORS[type(node.op)]()
        self.replace(node, f"({ast.unparse(ast.BinOp(node.left, operator, node.right))})")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        operator = OPERATORS[type(node.op)]()
        self.replace(node, f"({ast.unparse(ast.BoolOp(operator, node.values))})")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for i, operator in enumerate(node.ops):
            ops = [*node.ops[:i], OPERATORS[type(operator)](), *node.ops[i + 1 :]]
            self.replace(node, f"({ast.unparse(ast.Compare(node.left, ops, node.comparators))})")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        is_last_axis = (
            isinstance(node.operand, ast.Constant) and node.operand.value == 1
        )  # 1 is the same axis of [B, V]
        if not isinstance(node.op, ast.UAdd) and not is_last_axis:
            self.replace(node, f"({ast.unparse(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.replace(node, str(not node.value))
        elif isinstance(node.value, int | float):
            self.replace(node, repr(node.value + 1 if abs(node.value) < LARGE else node.value * 2))

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self._negate(node.test)
        self.visit_block([*node.body, *node.orelse])
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self.visit_block(node.body)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self.visit_block(node.body)
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        self.visit_block(node.body)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for condition in node.ifs:
            self._negate(condition)
        self.generic_visit(node)

    def _negate(self, test: ast.expr) -> None:
        if isinstance(test, ast.Name | ast.Attribute | ast.Call | ast.NamedExpr):
            self.replace(test, f"(not ({ast.unparse(test)}))")

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call) and not ast.unparse(node.value.func).lower().startswith("log"):
            self.replace(node, "pass")
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:  # neither decorators nor annotations
        outer = self.function
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self.visit(default)
        self.function = outer or first_line(node)
        for statement in node.body:
            self.visit(statement)
        self.function = outer

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_keyword(self, node: ast.keyword) -> None:
        """`zip(strict=True)` is an assertion, as a raised message is no behavior."""
        if node.arg != "strict":
            self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """A message is not mutated."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Offsets within a formatted string are those of the string."""


def mutants_of(module: str, source: bytes) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    finder = _Finder(module, source)
    finder.visit(ast.parse(source))
    return sorted(set(finder.mutants), key=lambda mutant: (mutant.start, mutant.end, mutant.text))


def own_tests(module: str) -> list[str]:
    """The test files of a module: its mirror, those of its room that import or name it, and `FOLDER_TESTS`."""
    path = Path(module)
    dotted = ".".join(path.with_suffix("").parts)
    imports = re.compile(rf"\b(from|import) {re.escape(dotted)}\b|[\"']{re.escape(dotted)}\b")
    source = (ROOT / module).read_text()
    registered = re.findall(r'^@component\("(?!sampler)[a-z_]+", "([a-z_0-9]+)"\)', source, re.MULTILINE)
    names = re.compile("|".join(f"[\"'(]{name}[\"'(,)]" for name in registered) or "(?!)")
    ranks: dict[str, int] = {}
    for file in sorted((ROOT / "tests" / path.parts[0]).rglob("test_*.py")):
        name, text = str(file.relative_to(ROOT)), file.read_text()
        is_others = name.startswith(SLOW_FOLDERS) and not name.startswith(f"tests/{path.parent}/")
        if file.name in SLOW_TESTS or is_others:
            continue
        if file.name == f"test_{path.stem}.py" or imports.search(text) or names.search(text):
            ranks[name] = 0 if file.name == f"test_{path.stem}.py" else 1 if imports.search(text) else 2
    ordered = sorted(ranks, key=lambda name: (ranks[name], (ROOT / name).stat().st_size))
    extra = [test for folder, tests in FOLDER_TESTS.items() if f"{module}/".startswith(folder + "/") for test in tests]
    return list(dict.fromkeys([*ordered, *test_files(extra)]))


def test_files(paths: Sequence[str]) -> list[str]:
    """The test files, and those in the folders, relative to the repository."""
    files = [file for path in paths for file in sorted((ROOT / path).rglob("test_*.py")) or [ROOT / path]]
    return [str(file.relative_to(ROOT)) for file in files]


def choose(by_module: dict[str, list[Mutant]], count: int | None, seed: int) -> list[Mutant]:
    """A random sample that takes a mutant of each module in turn; all mutants without a count."""
    queues = [random.Random(f"{seed}/{module}").sample(all_, len(all_)) for module, all_ in by_module.items()]
    turns = [queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)]
    return sorted(turns[:count], key=lambda mutant: (mutant.module, mutant.start))


class CallRecorder:
    """A pytest plugin that records which functions of the modules each test calls.

    While it is installed, each function of the modules calls it first. The source files stay as they are.
    """

    def __init__(self, copy: Path, modules: Sequence[str]) -> None:
        self.files = {str(copy / module): module for module in modules}
        self.calls: dict[str, dict[str, list[int]]] = {}
        self.current: set[tuple[str, int]] = set()

    def install(self) -> None:
        """Marks the functions of the modules that are imported from now on."""
        compile_source = importlib.machinery.SourceFileLoader.source_to_code

        def compile_marked(loader: Any, data: Any, path: Any, **options: Any) -> Any:
            if module := self.files.get(str(path)):
                data = mark_functions(ast.parse(data), module)
            return compile_source(loader, data, path, **options)

        importlib.machinery.SourceFileLoader.source_to_code = compile_marked  # type: ignore[method-assign]  # also for our own
        setattr(builtins, MARK, lambda module, line: self.current.add((module, line)))

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self.current = set()

    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
        by_module: dict[str, list[int]] = {}
        for module, line in sorted(self.current):
            by_module.setdefault(module, []).append(line)
        self.calls[nodeid] = by_module


def mark_functions(tree: ast.Module, module: str) -> ast.Module:
    """The module, with a call of MARK in each function. A nested function records the line of the outermost one."""

    def visit(node: ast.AST, outer: int) -> None:
        for child in ast.iter_child_nodes(node):
            line = outer
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                line = outer or first_line(child)
                mark = ast.parse(f"{MARK}({module!r}, {line})").body[0]
                for part in ast.walk(mark):
                    ast.copy_location(part, child.body[0])
                child.body.insert(1 if ast.get_docstring(child) is not None else 0, mark)
            visit(child, line)

    visit(tree, 0)
    return tree


def first_line(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The line of a function's first decorator, else of its name."""
    return min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])


class Server:
    """A process that has imported and collected the tests of a copy. It forks for each mutant.

    The fork gives the live functions of the changed module their new code, so it imports and collects nothing. A module
    that no test module imported is read from its changed file.

    Args:
        copy: The copy of the repository.
        tests: The test files.
        modules: The modules that have mutants.
        folder: Receives the log, the temporary files of the tests and `record.json`.
    """

    def __init__(self, copy: Path, tests: Sequence[str], modules: Sequence[str], folder: Path) -> None:
        self.copy, self.folder = copy, folder
        self.recorder = CallRecorder(copy, modules)
        (requests, self.requests), (self.replies, replies) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(requests)
            os.close(replies)
            return
        try:
            os.close(self.requests)
            os.close(self.replies)
            self.incoming, self.outgoing = os.fdopen(requests), os.fdopen(replies, "w")
            enter_copy(copy, folder / f"{copy.name}.log")
            self.recorder.install()
            run_pytest(["--basetemp", str(folder / f"{copy.name}-tmp"), *tests], [self.recorder, self])
        finally:
            os._exit(70)

    def ask(self, **request: Any) -> None:
        """Starts a run of `tests` by their ids (None: all). `limit` is in seconds; the others are the mutant's."""
        os.write(self.requests, f"{json.dumps(request)}\n".encode())

    def answer(self, wait: float = 0.0) -> str | None:
        """The result of the run: 'survived', 'killed', 'timeout' or 'unknown'; None if it still runs."""
        if not select.select([self.replies], [], [], wait)[0]:
            return None
        return os.read(self.replies, 100).decode().strip() or "unknown"

    def close(self) -> None:
        os.close(self.requests)
        os.waitpid(self.pid, 0)

    def pytest_runtestloop(self, session: Any) -> bool:
        """Answers requests until the pipe closes. Runs in the server's process."""
        live: dict[tuple[str, int, str], list[types.FunctionType]] = defaultdict(list)
        for function in (one for one in gc.get_objects() if type(one) is types.FunctionType):
            code = function.__code__
            if code.co_filename in self.recorder.files:
                live[code.co_filename, code.co_firstlineno, code.co_name].append(function)
        for line in self.incoming:
            request = json.loads(line)
            pid = os.fork()
            if not pid:
                status = 70
                try:
                    os.setsid()
                    status = 1 if session.testsfailed else self.run(session, live, **request)
                finally:
                    os._exit(status)
            self.outgoing.write(wait_for(pid, request["limit"]) + "\n")
            self.outgoing.flush()
        return True

    def run(
        self,
        session: Any,
        live: dict[tuple[str, int, str], list[types.FunctionType]],
        *,
        tests: list[str] | None,
        module: str = "",
        function: int = 0,
        limit: float = 0.0,
    ) -> int:
        """The status of a forked process: 0 if all tests pass, 1 if one fails, 70 if the code cannot be replaced."""
        path = str(self.copy / module)
        if module and any(getattr(one, "__file__", None) == path for one in list(sys.modules.values())):
            codes = [code for code in nested_codes(compile(Path(path).read_bytes(), path, "exec")) if code.co_name]
            (new,) = [code for code in codes if code.co_firstlineno == function and code.co_name != "<lambda>"]
            old = live[path, function, new.co_name]
            if not old:
                return 70
            for one in old:
                one.__code__ = new
        by_id = {item.nodeid: item for item in session.items}
        items = list(session.items) if tests is None else [by_id[name] for name in tests]
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed:
                return 1
        if tests is None:
            paths = {name: getattr(one, "__file__", None) or "" for name, one in list(sys.modules.items())}
            libraries = [name for name, file in paths.items() if "site-packages" in file]
            (self.folder / "record.json").write_text(json.dumps([self.recorder.calls, libraries]))
        return 0


def nested_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code objects of functions in a module, class by class. Functions within functions are left out."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            if not constant.co_flags & inspect.CO_OPTIMIZED:  # a class body
                yield from nested_codes(constant)


def enter_copy(copy: Path, log: Path) -> None:
    """Makes a forked process one that runs in a copy of the repository and writes to a log."""
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(copy)
    sys.path[0] = str(copy)
    os.environ.update(PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")
    sys.dont_write_bytecode = True


def run_pytest(arguments: Sequence[str], plugins: Sequence[Any] = ()) -> int:
    """pytest's exit status."""
    import pytest

    quiet = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore::pytest.PytestWarning"]
    return int(pytest.main([*quiet, *arguments], plugins=list(plugins)))


def wait_for(pid: int, limit: float) -> str:
    """Waits for a forked process that leads a session, and ends that session."""
    deadline, done, status = time.monotonic() + limit, 0, 0
    while not done and time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        time.sleep(0 if done else 0.01)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if not done:
        os.waitpid(pid, 0)
        return "timeout"
    return {0: "survived", 70 << 8: "unknown"}.get(status, "killed")


class Runner:
    """Runs tests of mutants in copies of the repository: by a `Server`, or in a process that imports everything."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self.folder, self.copies = folder, [folder / str(job) for job in range(jobs)]
        self.servers: dict[Path, Server] = {}
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        for copy in self.copies:
            for name in listing:
                if (ROOT / name).is_file():
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(ROOT / name, copy / name)

    def start(self, copy: Path, tests: Sequence[str]) -> int:
        """The id of a process that imports and runs tests and exits with pytest's status."""
        if pid := os.fork():
            return pid
        status = 70
        try:
            enter_copy(copy, self.folder / f"{copy.name}.log")
            status = run_pytest(tests)
        finally:
            os._exit(status)

    def record(self, tests: Sequence[str], modules: Sequence[str]) -> dict[str, dict[str, list[int]]]:
        """Test -> module -> first lines of the functions that it calls, from one run without a mutant.

        Starts the servers. Later processes share the libraries that the tests imported.
        """
        self.servers = {copy: Server(copy, tests, modules, self.folder) for copy in self.copies}
        first = self.servers[self.copies[0]]
        first.ask(tests=None, limit=3600)
        if first.answer(3600) != "survived":
            log = (self.folder / "0.log").read_text(errors="replace").splitlines()
            sys.exit("\n".join(["The tests fail without a mutant:", *log[-15:]]))
        calls, libraries = json.loads((self.folder / "record.json").read_text())
        for name in libraries:
            with suppress(Exception):
                importlib.import_module(name)
        return dict(calls)

    def close(self) -> None:
        for server in self.servers.values():
            server.close()

    def run(
        self, work: Sequence[tuple[Mutant, Sequence[str]]], limit: float, served: bool = False
    ) -> Iterator[tuple[Mutant, str]]:
        """Yields each mutant with 'killed', 'timeout' or 'survived' after its tests.

        Args:
            work: The mutants with their tests.
            limit: Seconds for the tests of a mutant.
            served: Whether servers may run the tests of mutants in functions, without fresh imports.
        """
        waiting, free = list(work), list(self.copies)
        running: dict[Path, tuple[Mutant, Sequence[str], int, float]] = {}
        while waiting or running:
            while waiting and free:
                (mutant, tests), copy = waiting.pop(0), free.pop()
                (copy / mutant.module).write_bytes(mutant.source((ROOT / mutant.module).read_bytes()))
                if served and mutant.function and copy in self.servers:
                    request = {"module": mutant.module, "function": mutant.function, "limit": limit}
                    self.servers[copy].ask(tests=list(tests), **request)
                    running[copy] = mutant, tests, 0, 0.0
                else:
                    running[copy] = mutant, tests, self.start(copy, tests), time.monotonic() + limit
            time.sleep(0.02)
            for copy, (mutant, tests, pid, deadline) in list(running.items()):
                if pid:
                    done, status = os.waitpid(pid, os.WNOHANG)
                    if not done and time.monotonic() < deadline:
                        continue
                    with suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                    if not done:
                        os.waitpid(pid, 0)
                    result = "timeout" if not done else "killed" if status else "survived"
                elif (answer := self.servers[copy].answer()) is None:
                    continue
                elif answer not in ("killed", "survived"):
                    running[copy] = mutant, tests, self.start(copy, tests), time.monotonic() + limit
                    continue
                else:
                    result = answer
                shutil.copyfile(ROOT / mutant.module, copy / mutant.module)
                free.append(copy)
                del running[copy]
                place = len(work) - len(waiting) - len(running)
                print(f"{place} of {len(work)}: {result} {mutant}", file=sys.stderr, flush=True)
                yield mutant, result


def select_tests(mutant: Mutant, files: Sequence[str], calls: dict[str, dict[str, list[int]]]) -> list[str]:
    """The tests of these files that call the mutated function, or any function of its module if it is in none."""
    by_file: dict[str, list[str]] = defaultdict(list)
    for test, called in calls.items():
        lines = called.get(mutant.module, ())
        pins_defaults = not mutant.function and "/test_defaults.py::" in test
        if mutant.function in lines or (lines and not mutant.function) or pins_defaults:
            by_file[test.partition("::")[0]].append(test)
    return [test for file in files for test in by_file[file]]


def judge(mutants: Sequence[Mutant], tests: dict[str, list[str]], jobs: int) -> Iterator[tuple[Mutant, str]]:
    """Yields each mutant with 'killed', 'timeout' or 'survived'. `tests` has the test files of each module."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        runner, start = Runner(Path(folder), jobs), time.monotonic()
        files = sorted({file for mutant in mutants for file in tests[mutant.module]})
        calls = runner.record(files, sorted({mutant.module for mutant in mutants}))
        limit = 20 + 3 * (time.monotonic() - start)
        chosen = {mutant: select_tests(mutant, tests[mutant.module], calls) for mutant in mutants}
        survivors = [mutant for mutant in mutants if not chosen[mutant]]
        for mutant, result in runner.run([(m, chosen[m]) for m in mutants if chosen[m]], limit, served=True):
            if result == "survived":
                survivors.append(mutant)
            else:
                yield mutant, result
        # A test may depend on a call whose result an earlier test left in a cache or fixture, or that its module makes
        # when it is imported, and on a value of a class or a module without calling it.
        again = []
        for mutant in survivors:
            own = select_tests(replace(mutant, function=0), tests[mutant.module], calls)
            more = (
                own if mutant.function else [test for test in calls if test.partition("::")[0] in tests[mutant.module]]
            )
            again.append((mutant, [test for test in more if test not in set(chosen[mutant])]))
        yield from ((mutant, "survived") for mutant, more in again if not more)
        yield from runner.run([pair for pair in again if pair[1]], limit, served=True)
        runner.close()


def read_verdicts(path: Path) -> dict[Mutant, str]:
    """The verdicts that an earlier run appended to a file, if it exists."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {Mutant(**record.pop("mutant")): record["result"] for record in map(json.loads, lines)}


def append_verdict(path: Path, mutant: Mutant, result: str) -> None:
    with path.open("a") as file:
        file.write(json.dumps({"mutant": asdict(mutant), "result": result}) + "\n")


def _shorten(code: str) -> str:
    line = " ".join(code.split())
    return line if len(line) <= 70 else f"{line[:67]}..."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", help="folders or modules, relative to the repository")
    parser.add_argument("--sample", type=int, help="number of mutants, evenly over the modules; all by default")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="number of mutants that run at once")
    parser.add_argument("--tests", nargs="+", help="test files, in the place of the modules' own")
    parser.add_argument("--verdicts", type=Path, help="file of verdicts: a run that breaks off goes on from it")
    parser.add_argument("--list", action="store_true", help="print the mutants and the tests, run nothing")
    options = parser.parse_args()
    files = [file for source in options.sources for file in sorted((ROOT / source).rglob("*.py")) or [ROOT / source]]
    modules = [str(file.relative_to(ROOT)) for file in files]
    mutants = choose({m: mutants_of(m, (ROOT / m).read_bytes()) for m in modules}, options.sample, options.seed)
    tests = {module: test_files(options.tests) if options.tests else own_tests(module) for module in modules}
    if options.list:
        print(*mutants, *(f"{module}: {' '.join(files)}" for module, files in tests.items()), sep="\n")
        return 0
    results = read_verdicts(options.verdicts) if options.verdicts else {}
    results = {mutant: results[mutant] for mutant in mutants if mutant in results}
    for source in options.sources:
        left = [mutant for mutant in mutants if mutant.module.startswith(source) and mutant not in results]
        for mutant, result in judge(left, tests, options.jobs) if left else ():
            results[mutant] = result
            if options.verdicts:
                append_verdict(options.verdicts, mutant, result)
    for mutant, result in results.items():
        if result != "killed":
            print(f"{result:9} {mutant}")
    by_folder: dict[str, Counter[str]] = defaultdict(Counter)
    for mutant, result in results.items():
        by_folder[str(Path(mutant.module).parent)][result] += 1
    for name, counts in sorted(by_folder.items()):
        killed = counts.total() - counts["survived"]
        print(f"{name}: {killed} of {counts.total()} killed ({killed / counts.total():.1%})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
