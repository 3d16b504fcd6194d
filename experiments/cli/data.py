"""Get data: fetch drawings, check what a data set has, or mine pairs that an encoder confuses."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from experiments.cli.main import checked_path
from experiments.cli.options import Overrides
from experiments.terminal.progress import spinner
from icl import ConfigError, Example, ICLError, Image, Pool, build, did_you_mean, strip_control_characters
from icl.tasks import presets
from retrievers import Embedder, open_source

ROLES, COLUMN = ("question", "image", "answer", "options", "id", "group"), {"group": "pair"}

VARYING = re.compile(r"row \d+|'[^']*'|\([^()]*\)")
"""Parts of a sentence that differ between rows with the same problem."""
MAX_KINDS = 5


def drawings(
    sets: Annotated[str, typer.Option("--sets", help="of openclipart, tuxpaint, emoji")] = "openclipart,tuxpaint,emoji",
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FOLDER", help="a folder with the packages' files, for systems without apt-get or npm"
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="where the drawings go [a folder of the cache]")
    ] = None,
) -> None:
    """Fetch drawings by apt-get and npm, without root, and write them, cleaned, to the cache.

    `icl data drawings` fetches everything (400 MB); `--sets openclipart` public-domain drawings alone (31 MB).
    """
    from icl.tasks.drawings.install import install_drawings
    from icl.tasks.drawings.table import SOURCES

    chosen = [part.strip() for part in sets.split(",") if part.strip()]
    with spinner() as report_progress:
        folder = install_drawings(chosen, source=source, folder=to, report_progress=report_progress)
    facts = json.loads((folder / SOURCES).read_text(encoding="utf-8"))
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in sorted(facts["left_out"].items()))
    print(f"{facts['drawings']:,} drawings in {folder}")
    print(f"left out: {left_out}" if left_out else "nothing was left out")
    for package in facts["packages"]:
        other = "" if package.get("as_tested", True) else "   (another version than the one tested)"
        print(f"  {package['package']:26} {package['license']}{other}")


def check(
    data: Annotated[
        str, typer.Argument(help="a file or folder, or a preset of the task hub, such as pope", show_default=False)
    ],
    overrides: Overrides = None,
    *,
    rows: Annotated[int, typer.Option(min=1, help="the number of rows whose images are opened")] = 10,
    record: Annotated[
        bool, typer.Option("--record", help="store date, revision and columns with the preset, for a checkout")
    ] = False,
    path: Annotated[Path | None, typer.Option(metavar="FILE", help="your own file with the data of a preset")] = None,
) -> None:
    """Read your data, or some queries of a preset, and say which rows cannot be used, and which roles and columns are
    empty, unused, new or absent.

    The columns of your own data are guessed, as by `icl new study --data` and `icl try`, and all rows are read. A key
    corrects a guess: `icl data check rows.csv task.columns.answer=gold`. A preset from the hub is read as far as --rows
    says. A column is new if the data of a preset did not have it when it was last checked. Exit status: 1 if a row
    cannot be used, if a column that is mapped is absent or empty in all rows, or if an image cannot be opened.
    """
    from experiments.cli.column_guess import guess_task, with_overrides

    if not (is_preset := data in presets.PRESETS) and not checked_path(data).exists():
        raise ConfigError(
            f"there is no file, folder or preset '{data}'.{did_you_mean(data, presets.PRESETS)} Presets: "
            f"{', '.join(presets.PRESETS)}."
        )
    guess = None if is_preset else guess_task(Path(data), Path())
    start = {"task": _preset_task(data, path) if guess is None else guess.task}
    keys = with_overrides("icl data check", start, Path(), overrides)
    if others := [key for key in keys if key != "task"]:
        raise ConfigError(
            f"icl data check reads the keys of the task alone, such as task.columns.answer. Remove {others[0]}."
        )
    node = keys["task"]
    columns = {**(presets.PRESETS[data]["columns"] if is_preset else {}), **node.get("columns", {})}
    if not is_preset and (record or path):
        raise ConfigError("--record and --path need a preset. Name a preset, or remove the option.")
    for note in guess.notes if guess and not overrides else ():
        _print_line("note", note)
    if node["name"] == "hub" and "answer" not in columns:
        raise ConfigError(
            f"Without answers nothing can be read. Name their column: icl data check {data} task.columns.answer=COLUMN."
        )
    is_part = is_preset and path is None
    task: Any = build("task", {**node, "queries": rows} if is_part else node)
    named = {column: key for key, column in getattr(task, "named_columns", [])}
    data_columns = getattr(task, "data_columns", [])
    read: Sequence[Example] = ()
    problems, empty = list[str](), list[str]()
    if absent := [f"{column} ({key})" for column, key in named.items() if column not in data_columns]:
        _print_line("absent", f"{', '.join(absent)}: the data do not have what is mapped. Set these keys.")
    else:
        read, problems = (task.queries, []) if is_part else _read_all(task)
        _print_problems(problems, len(read) + len(problems))
        empty = _print_roles(task, read, columns, "usable rows" if problems else "rows")
    earlier = presets.CHECKS.get(data, {}).get("columns", data_columns) if is_preset else data_columns
    _print_line("unused", ", ".join(name for name in data_columns if name not in named))
    _print_line("new", ", ".join(name for name in data_columns if name not in earlier))
    _print_line("gone", ", ".join(name for name in earlier if name not in data_columns))
    if absent:
        raise typer.Exit(1)
    if record:
        presets.record_check(data, task.data_revision, task.data_columns)
        print(f"recorded     {preset_row(data)}")
    _print_line("empty", f"{', '.join(empty)}: set `columns`, or leave these roles out." if empty else "")
    with_image = [one for one in read if one.images]
    unopened = [problem for one in with_image[:rows] for image in one.images if (problem := _problem(image))]
    _print_line("unopened", f"{len(unopened):,} images, such as: {unopened[0]}" if unopened else "")
    if rows < len(with_image):
        _print_line("opened", f"the images of {rows:,} rows; --rows {len(with_image)} opens all")
    if problems or empty or unopened:
        raise typer.Exit(1)


def _read_all(task: Any) -> tuple[Sequence[Example], list[str]]:
    """All examples of a task, and a sentence for each row that is none. Other tasks than `hub` raise the first one."""
    if hasattr(task, "read_rows"):
        usable, problems = task.read_rows()
        return usable, problems
    return [*task.queries, *task.pool(task.queries[0].id).examples], []


def _print_problems(problems: Sequence[str], total: int) -> None:
    """Prints in how many rows each problem is, the most frequent ones first."""
    by_kind: dict[str, list[str]] = {}
    for problem in problems:
        by_kind.setdefault(VARYING.sub("", problem), []).append(problem)
    kinds = sorted(by_kind.values(), key=len, reverse=True)
    for same in kinds[:MAX_KINDS]:
        _print_line("unusable", f"{len(same):,} of {total:,} rows{', such as' * (len(same) > 1)}: {same[0]}")
    others = sum(map(len, kinds[MAX_KINDS:]))
    _print_line("unusable", f"{others:,} of {total:,} rows for other reasons" if others else "")


def _preset_task(preset: str, path: Path | None) -> dict[str, Any]:
    """The task of a preset, on its data set of the hub or on these files."""
    if path is None and "path" not in presets.PRESETS[preset]:
        raise ConfigError(f"preset '{preset}' reads your own files, not a data set of the hub: add --path FILE.")
    place = {} if path is None else {"path": str(checked_path(path).absolute())}
    return {"name": "hub", "preset": preset, **place}


def _problem(image: Image) -> str:
    """Why an image cannot be opened; '' if it can."""
    try:
        image.open()
    except ICLError as error:
        return str(error)
    return ""


def _print_roles(task: Any, queries: Sequence[Example], columns: Mapping[str, Any], rows: str) -> list[str]:
    """Prints in how many usable rows, called `rows`, each role has a value. Returns the mapped roles without any."""
    empty = list[str]()
    values_by_role: dict[str, list[Any]] = {
        "question": [one.question for one in queries], "image": [one.images for one in queries],
        "options": [one.options for one in queries], "answer": [one.answers for one in queries],
        "group": [one.group for one in queries], "hint": [one.question.startswith("Hint: ") for one in queries],
    }  # fmt: skip
    for role, values in values_by_role.items():
        count = sum(bool(value) for value in values)
        names = columns.get(role, "")
        written = " + ".join(names) if isinstance(names, list | tuple) else str(names)
        if written or role not in ("hint", "group"):
            _print_line(role, f"{count:,} of {len(queries):,} {rows}{f'   column {written}' if written else ''}")
        empty += [role] if written and not count and role != "hint" else []  # few rows have a hint
    for note in getattr(task, "notes", ()):
        _print_line("note", note)
    _print_line("revision", getattr(task, "data_revision", ""))
    return empty


def _print_line(what: str, text: str) -> None:
    """A line with its label, without the control characters of data; nothing without a text."""
    if text:
        print(f"{what:<12} {strip_control_characters(text)}")


def preset_row(name: str) -> str:
    """The row of a preset in the table of docs/data.md."""
    one, path = presets.CHECKS.get(name, {}), presets.PRESETS[name].get("path")
    if "date" in one:
        checked = f"{one['date']}, {one['revision'] or 'local files'}"
    else:
        checked = "never" if path else "files of yours"
    return f"| `{name}` | {path or '–'} | {one.get('against', '–')} | {checked} |"


def mine(
    config: Annotated[Path, typer.Argument(help="an experiment file; its task gives the images", show_default=False)],
    overrides: Overrides = None,
    *,
    out: Annotated[Path, typer.Option(help="the folder to write")] = Path("blind_pairs"),
    blind: Annotated[str, typer.Option(help="the encoder that confuses them: a name or a YAML mapping")] = "encoder",
    reference: Annotated[str, typer.Option(help="the encoder that distinguishes them")] = "efficientnet",
    high: Annotated[float, typer.Option(min=-1, max=1, help="lowest cosine of the blind encoder")] = 0.95,
    low: Annotated[float, typer.Option(min=-1, max=1, help="highest cosine of the other encoder")] = 0.6,
    disjoint: Annotated[bool, typer.Option(help="whether an image is in one pair only")] = True,
) -> None:
    """Mine pairs of images that one encoder confuses and another one distinguishes, and write them as a task.

    Writes DIR/rows.jsonl and DIR/images: two questions for each pair, as in MMVP (Tong et al., CVPR 2024).

    The last line of the output is the task of these questions. Use the metric group_accuracy: a pair counts if both
    answers are right. Pairs with equal answers are left out.

    `icl data mine x.yaml --blind encoder --reference efficientnet --out pairs`
    """
    from experiments.config import load_config, parse_yaml
    from experiments.grid.grid import expand
    from experiments.store.store import report_write_errors

    examples = {
        e.id: e for task in expand(load_config(config, overrides or [])).tasks for e in task.queries if e.images
    }
    one, other = (
        build("embedder", parse_yaml(node, flag)[0], flag)
        for node, flag in ((blind, "--blind"), (reference, "--reference"))
    )
    pairs = blind_pairs(list(examples.values()), one, other, high=high, low=low, disjoint=disjoint)
    pairs = [pair for pair in pairs if pair.one.answer != pair.other.answer]
    if not pairs:
        raise ConfigError(
            f"no pair of the {len(examples):,} images has two answers, a cosine above {high:g} by {blind}, and one "
            f"below {low:g} by {reference}. Use other bounds (--high, --low)."
        )
    lines = []
    with report_write_errors(out):
        (out / "images").mkdir(parents=True, exist_ok=True)
        for number, pair in enumerate(pairs):
            for place, example in enumerate((pair.one, pair.other)):
                name = f"{number:05d}-{place}"
                example.images[0].open().save(out / "images" / f"{name}.png")
                row = {
                    "id": name, "pair": str(number), "image": f"images/{name}.png", "question": example.question,
                    "options": [pair.one.answer, pair.other.answer], "answer": example.answer, "source": example.id,
                    "blind": pair.blind, "reference": pair.reference,
                }  # fmt: skip
                lines.append(json.dumps(row, ensure_ascii=False))
        (out / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote        {len(pairs):,} pairs of {len(examples):,} images to {out}")
    columns = ", ".join(f"{role}: {COLUMN.get(role, role)}" for role in ROLES)
    print(f"task:        {{name: hub, path: {out / 'rows.jsonl'}, columns: {{{columns}}}, whole_groups: true}}")


# Pairs of images that one encoder confuses and another encoder distinguishes (MMVP, Tong et al., CVPR 2024).
#
#     cos(a, b) > high for the blind encoder (CLIP, .95),    cos(a, b) < low for the other one (DINOv2, .6)
#
# Both inequalities are strict. All pairs are compared, and the largest difference is first. With `disjoint`, an image
# is in at most one pair.

BLOCK = 1024
"""Rows per matrix product. It bounds the memory."""


@dataclass(frozen=True)
class BlindPair:
    """Two examples whose images are similar only for the blind encoder."""

    one: Example
    other: Example
    blind: float  # the blind encoder's cosine
    reference: float  # the reference encoder's cosine


def blind_pairs(
    examples: Sequence[Example],
    blind: Embedder,
    reference: Embedder,
    *,
    high: float = 0.95,
    low: float = 0.6,
    disjoint: bool = False,
) -> list[BlindPair]:
    """Find all blind pairs. Raises ConfigError if `high` is below `low`."""
    if high < low:
        raise ConfigError(f"a pair is above {high} for one encoder and below {low} for the other: high is below low.")
    pool = Pool(tuple(examples))
    blind_rows, reference_rows = (
        open_source(embedder, None, pool).embed_images(examples) for embedder in (blind, reference)
    )
    pairs: list[BlindPair] = []
    for start in range(0, len(examples), BLOCK):
        cosines = blind_rows[start : start + BLOCK] @ blind_rows.T
        references = reference_rows[start : start + BLOCK] @ reference_rows.T
        for i, j in np.argwhere((cosines > high) & (references < low)).tolist():
            if start + i < j:
                pairs.append(BlindPair(examples[start + i], examples[j], float(cosines[i, j]), float(references[i, j])))
    pairs.sort(key=lambda pair: pair.reference - pair.blind)
    return _disjoint(pairs) if disjoint else pairs


def _disjoint(pairs: list[BlindPair]) -> list[BlindPair]:
    used: set[str] = set()
    selected = []
    for pair in pairs:
        if not {pair.one.id, pair.other.id} & used:
            used |= {pair.one.id, pair.other.id}
            selected.append(pair)
    return selected


commands = (drawings, check, mine)
