"""Label outputs that could not be read: a person, one key for each, or a model; it settles undecided comparisons."""

import getpass
import sys
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.options import Metric, Quiet, Trust, model_node
from experiments.config.yaml_document import parse_override
from experiments.report.sample_browser import image_path
from experiments.report.sample_detail import printable_text
from experiments.results.labeling import (
    Output,
    Queue,
    describe_labels,
    export_outputs,
    import_labels,
    judge_error,
    require_queue,
)
from experiments.results.loaded_run import Run, load_run
from experiments.results.view_run import NO_REFERENCE, view_run
from experiments.running.judging import (
    collect_verdicts,
    control_requests,
    count_controls,
    describe_controls,
    refusal_of_controls,
)
from experiments.stats import LABELED_QUERIES, format_count
from experiments.store.labels import LABELS, Label, Labels, append_labels, read_labels
from experiments.terminal.progress import make_progress
from icl import ConfigError, Example, Image, ModelError, StoreError, build, describe
from icl.metrics.machinery.judge import Judge

# Single keys of a terminal, without the Return key; lines of a pipe elsewhere.


END = ""
"""What `read_key` returns at the end of the input."""
INTERRUPT = "\x03"


def read_key() -> str:
    """The next key, inside `single_keys`. In a pipe it is the first character of a line, and a space of an empty one.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return (line.strip()[:1] or " ") if line else END
    if sys.platform == "win32":
        import msvcrt

        key = msvcrt.getwch()
    else:
        key = sys.stdin.read(1)
    if key == INTERRUPT:
        raise KeyboardInterrupt
    return key


@contextmanager
def single_keys() -> Iterator[None]:
    """A terminal that passes each key on at once and does not print it."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


RIGHT, WRONG, UNSURE, UNDO, STOP = "j", "f", " ", "u", "q"
KEYS = {RIGHT: True, WRONG: False, UNSURE: None}
WORDS = {RIGHT: "right", WRONG: "wrong", UNSURE: "cannot tell", UNDO: "undo", STOP: "stop"}
HELP = "j right   f wrong   space cannot tell   u undo   q stop"
MAX_LISTED = 8
BLOCK = 20
"""Labels between two messages on what is decided."""


def command(
    run: Annotated[Path, typer.Argument(help="a run directory", show_default=False)],
    parameters: Annotated[
        list[str] | None,
        typer.Argument(help="with --judge: parameters of the metric judge, such as images=true", show_default=False),
    ] = None,
    *,
    queries: Annotated[int, typer.Option(help="label the outputs of so many queries", min=1)] = LABELED_QUERIES,
    every: Annotated[bool, typer.Option("--all", help="label until no output is unread")] = False,
    by: Annotated[str, typer.Option(help="who labels; by default the name of the user", show_default=False)] = "",
    metric: Metric = "",
    browser: Annotated[bool, typer.Option("--browser", help="label on a page that only this machine can open")] = False,
    export: Annotated[
        Path | None, typer.Option("--export", help="write the outputs to label to a CSV file", show_default=False)
    ] = None,
    read: Annotated[
        Path | None,
        typer.Option("--import", help="read labels of a CSV file that --export wrote", show_default=False),
    ] = None,
    judge: Annotated[
        str,
        typer.Option(
            help="let this model judge, such as '{name: remote, url: http://127.0.0.1:8000/v1, model: …}'",
            show_default=False,
        ),
    ] = "",
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Shows question, paths of the images, accepted answers and output, and not which arm gave it. --browser shows the
    images. Equal outputs are shown once. Some outputs that were read are shown too, to check the reader.
    Keys: j right, f wrong, space bar cannot tell, u take back, q stop.

    The order is random, but fixed, and outputs of one query stand together. Each key is written to labels.jsonl of the
    run at once, so the same command goes on where it was stopped. `icl compare` and `icl report` use the labels: those
    of 60 queries correct what the metric says of the outputs that it cannot read. Choose the number of queries before
    you start; each look has a share of the level: half for the first, and the rest for labels of everything.

    `icl label runs/x`; `icl label runs/x --export outputs.csv`, then `icl label runs/x --import outputs.csv --by ana`

    With --judge, a model gives a verdict on each unread output. No verdict counts alone: it replaces the metric's
    guess, which the labels of people correct. A better judge makes the interval narrower, and a bad one cannot shift
    it. Four controls run first: accepted, empty, other and swapped answers. A judge that calls empty answers right, or
    accepted ones wrong, is refused, and its verdicts are not stored. The controls send empty answers on purpose; empty
    outputs of the run count as wrong and are not sent.

    `icl label runs/x --judge Qwen/Qwen2.5-7B-Instruct`, then `icl label runs/x`
    """
    if judge:
        if queries != LABELED_QUERIES or every or by or browser or export is not None or read is not None:
            raise ConfigError("--judge asks a model, other options a person. Use one after the other.")
        _judge_run(run, judge, parameters or [], metric, trust=trust, quiet=quiet)
        return
    if parameters:
        raise ConfigError(f"'{parameters[0]}' is a parameter of a judge. Name its model: --judge MODEL.")
    work = Work(load_run(run), metric, by.strip() or _user(), None if every else queries)
    if export is not None and read is not None:
        raise ConfigError("--export and --import cannot be combined: fill the column 'right' of the file in between.")
    if export is not None:
        print(f"wrote {format_count(export_outputs(export, work.missing()), 'output')}   {export}")
    elif read is not None:
        print(f"read {format_count(import_labels(read, work.run.path, work.queue, work.by, work.look), 'label')}")
        work.print_state()
    else:
        work.begin()
        if browser:
            work.serve()
        else:
            with single_keys():
                work.ask()


@dataclass
class Work:
    """What one person labels in one run."""

    run: Run
    metric: str
    by: str
    queries: int | None
    left: list[Output] = field(default_factory=list)
    pressed: list[Output] = field(default_factory=list)
    queue: Queue = field(init=False)

    def __post_init__(self) -> None:
        view = view_run(self.run, self.metric or None, NO_REFERENCE)
        self.queue = require_queue(self.run.lazy_samples(), view.metric, self.run.path)

    @property
    def look(self) -> int:
        """The number of queries that are to be labeled."""
        return min(self.queries or len(self.queue.unread), len(self.queue.unread))

    @property
    def labels(self) -> Labels:
        return read_labels(self.run.path)

    def missing(self) -> list[Output]:
        return self.queue.missing(self.labels, self.look, self.by)

    def write(self, output: Output, right: bool | None, *, withdrawn: bool = False) -> None:
        append_labels(self.run.path, [Label(output.key, right, self.by, look=self.look, withdrawn=withdrawn)])

    def begin(self) -> None:
        """Reads which outputs lack a label."""
        labels = self.labels
        if labels.damaged:
            print(f"{labels.damaged[0]} is damaged. A label that it may take back does not count.", file=sys.stderr)
        self.left = self.missing()
        of = format_count(self.look, "query", "queries")
        print(f"{format_count(len(self.left), 'output')} of {of} to label. {HELP}")
        print("Some of them look clear: their labels check the rules that read the other outputs.")

    def press(self, key: str) -> bool:
        """Does what a key says about the first missing output. Returns whether it means something."""
        if key == UNDO and self.pressed:
            self.write(self.pressed[-1], None, withdrawn=True)
            self.left.insert(0, self.pressed.pop())
            print("  taken back")
        elif key in KEYS and self.left:
            self.write(self.left[0], KEYS[key])
            self.pressed.append(self.left.pop(0))
            print(f"  {WORDS[key]}")
            if self.left and len(self.pressed) % BLOCK == 0:
                print(*self._decided(), sep="\n")
        return key in KEYS or key == UNDO

    @property
    def standing(self) -> str:
        """'3 of 80'."""
        whole = len(self.queue.first(self.look))
        return f"{whole - len(self.left) + 1} of {whole}" if self.left else f"All {whole} outputs are labeled."

    def ask(self) -> None:
        """Asks for one label after the other until all are there, or the person stops."""
        while self.left:
            self._show(self.left[0])
            key = read_key().lower()
            if key in (STOP, END):
                break
            if not self.press(key):
                print(f"  {HELP}")
        self.print_state()

    def serve(self) -> None:
        """As `ask`, on a page in a browser."""
        from experiments.report.label_page import LabelServer

        if not self.left:  # the page would have no form that ends the server
            self.print_state()
            return

        def press(key: str, output: str) -> bool:
            if key == UNDO or (self.left and output == self.left[0].key):  # a form that was sent twice counts once
                self.press(key)
            return key != STOP and bool(self.left)

        server = LabelServer(self.run.path, lambda: (next(iter(self.left), None), self.standing), press, WORDS)
        print(f"{server.address}   (Ctrl-C stops; every key is stored at once)", flush=True)
        webbrowser.open(server.address)
        server.serve_forever()
        self.print_state()

    def _show(self, output: Output) -> None:
        images = [str(path) for name in output.images if (path := image_path(self.run.path, name))]
        lines = {
            "question": output.question, "images": "  ".join(images), "options": " / ".join(output.options),
            "accepted": " / ".join(output.gold), "output": output.text or "(empty)",
        }  # fmt: skip
        print(f"\n[{self.standing}]")
        for name, text in lines.items():
            if text:
                print(f"  {name:<9} {printable_text(text).strip()}")
        sys.stdout.flush()

    def print_state(self) -> None:
        """Says how many outputs are labeled, and what the labels decide."""
        labels = self.labels
        whole, left = self.queue.first(self.look), self.queue.missing(labels, self.look)
        print(
            f"\n{len(whole) - len(left):,} of {format_count(len(whole), 'output')} labeled   {self.run.path / LABELS}"
        )
        for sentence in (*describe_labels(self.queue, labels), *self._decided()):
            print(printable_text(sentence))
        if left:
            print(f"To go on: icl label {self.run.path} --queries {self.look}")

    def _decided(self) -> Iterator[str]:
        """How many comparisons are decided by now, and those that labels settle."""
        view = view_run(self.run, self.metric or None)
        every = [] if view.is_sequential else [one for own in view.comparisons.values() for one in own]
        if not every:
            return
        undecided = sum(str(one.verdict) == "undecided" for one in every)
        yield f"{len(every) - undecided:,} of {format_count(len(every), 'comparison')} decided by now."
        for one in [one for one in every if one.labels][:MAX_LISTED]:
            yield f"  {one.subject}: {one.arm} against {one.against} {one.numbers}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return "unknown"


def _judge_run(run: Path, model: str, parameters: list[str], metric: str, *, trust: bool, quiet: bool) -> None:
    """Stores the verdicts of a model on all unread outputs, after its controls."""
    loaded = load_run(run, trust)
    queue = require_queue(loaded.lazy_samples(), view_run(loaded, metric or None, NO_REFERENCE).metric, run)
    judge = _judge(model, parameters)
    note = make_progress(quiet).note
    _check(judge, queue, run, note)
    outputs = [one for one in queue.first(None) if one.is_unread]
    requests = {one.key: judge.request(one.text, _example(one, judge, run)) for one in outputs}
    collect_verdicts(judge, list(requests.values()), note)
    verdicts = {key: judge.verdicts.get(request.key, {"right": None})["right"] for key, request in requests.items()}
    stored = read_labels(run)
    new = [Label(key, right, _name(judge), judge=judge.judge.digest) for key, right in verdicts.items()
           if right is not None and stored.judged.get(key) != right]  # fmt: skip
    if new:
        append_labels(run, new)
    read = sum(right is not None for right in verdicts.values())
    print(f"{read:,} of {format_count(len(outputs), 'unread output')} judged by {_name(judge)}   {run}")
    print(judge_error(read_labels(run), outputs))
    print(f"To settle the comparisons: icl label {run}")


def _judge(model: str, parameters: list[str]) -> Judge:
    node = {"name": "judge", "judge": model_node(model), **dict(map(parse_override, parameters))}
    judge: Judge = build("metric", node, "--judge")
    return judge


def _check(judge: Judge, queue: Queue, run: Path, note: Callable[[str], None]) -> None:
    """Runs the controls. Raises ModelError for a judge that fails them."""
    answered = []
    for query in queue.unread:
        output = next(one for one in queue.outputs[query] if one.is_unread)
        example = _example(output, judge, run)
        answered.append((example, output.text, example))
    controls = control_requests(judge, answered)
    collect_verdicts(judge, [one for pairs in controls.values() for pair in pairs for one in pair], note)
    counts = {control: count_controls(judge, control, pairs) for control, pairs in controls.items()}
    print(describe_controls("controls", counts), file=sys.stderr)
    if reason := refusal_of_controls(counts):
        raise ModelError(f"{_name(judge)} cannot judge: {reason}. Use another model, or another prompt (prompt=FILE).")


def _example(output: Output, judge: Judge, run: Path) -> Example:
    paths = [image_path(run, name) for name in output.images] if judge.images else []
    images = tuple(Image.from_path(path) for path in paths if path is not None)
    if len(images) < len(paths):
        raise StoreError(
            f"{run / 'images'} lacks the file of an image of query '{output.query}', or has a link in its place. Use a "
            "copy of the run with its images, or images=false."
        )
    return Example(output.query, images, output.question, output.gold, output.options)


def _name(judge: Judge) -> str:
    """The model of a judge, for people."""
    node = describe(judge.judge)
    return str(node.get("model") or node.get("path") or node["name"])
