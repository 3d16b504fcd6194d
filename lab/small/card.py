"""The figures of trainings in files, and the table of the card that is written from them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from icl.errors import ModelError
from lab.tiny.card import grid
from lab.tiny.wilson import format_proportion

FIGURES = "figures.json"
RESULTS = Path(__file__).parent / "results"
CARD = Path(__file__).parents[2] / "icl" / "models" / "small" / "card.md"
BEGIN, END = "<!-- python -m lab.small card -->\n", "<!-- end of the table -->\n"
SEEDS = ("0", "1", "2")
FROZEN = "frozen"
"""The folder of the training without an adapter."""

GOALS = {
    "binding 2-way, 1 each, made_up names": 0.75,
    "binding 2-way, 2 each, made_up names": 0.88,
    "binding 2-way, 4 each, made_up names": 0.92,
    "binding 4-way, 2 each, made_up names": 0.70,
    "naming 50 held-out nouns": 0.30,
    "naming 100 training nouns": 0.60,
}


@dataclass
class StoredFigures:
    """The figures of one training. Each is written when it is there, so that the command continues.

    Attributes:
        questions: Questions of each figure.
        weights: sha256 of the learned weights.
        values: Right answers by the figure's name, and perplexities.
    """

    file: Path
    questions: int
    weights: str
    values: dict[str, float] = field(default_factory=dict)

    @classmethod
    def open(cls, file: Path, questions: int, weights: str) -> "StoredFigures":
        """Reads a file, or starts one. Figures of other weights or another number of questions are computed again."""
        own = cls(file, questions, weights)
        stored = cls.read(file) if file.exists() else own
        return stored if (stored.questions, stored.weights) == (questions, weights) else own

    @classmethod
    def read(cls, file: Path) -> "StoredFigures":
        """The figures of a file."""
        return cls(file, **json.loads(file.read_text(encoding="utf-8")))

    def add(self, name: str, count: Callable[[], float]) -> None:
        """Computes a figure that is not stored yet."""
        if name not in self.values:
            self.values[name] = count()
            fields = {"questions": self.questions, "weights": self.weights, "values": self.values}
            text = json.dumps(fields, indent=1)
            self.file.write_text(text + "\n", encoding="utf-8")


def write_card(runs: Path) -> None:
    """Copies the figures of the trainings in `runs` to the repository, and writes the table of the card."""
    for name in (*SEEDS, FROZEN):
        if (file := runs / name / FIGURES).exists():
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{name}.json").write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    text = CARD.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    CARD.write_text(f"{before}{BEGIN}\n{table(stored_results())}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def stored_results() -> dict[str, StoredFigures]:
    """The stored figures by the training's name."""
    files = {name: RESULTS / f"{name}.json" for name in (*SEEDS, FROZEN)}
    return {name: StoredFigures.read(file) for name, file in files.items() if file.exists()}


def table(results: Mapping[str, StoredFigures]) -> str:
    """A row for each figure, a column for each training: proportion with its Wilson 95 % interval.

    Raises:
        ModelError: If there are no figures.
    """
    if not results:
        raise ModelError(f"{RESULTS} has no figures. Write them with: python -m lab.small figures")
    first = next(iter(results.values()))
    lines = []
    for name in first.values:
        cells = []
        for one in results.values():
            value = one.values.get(name)
            perplexity = name.startswith("perplexity")
            if value is None:
                cells.append("–")
            else:
                cells.append(f"{value:.2f}" if perplexity else format_proportion((int(value), one.questions)))
        goal = f"{GOALS[name]:.2f}".removeprefix("0") if name in GOALS else ""
        lines.append([name.replace("made_up", "made-up"), *cells, goal])
    titles = [f"{f'seed {name}' if name in SEEDS else name}, n {one.questions}" for name, one in results.items()]
    return grid(["", *titles, "goal"], lines)
