"""What the models should reach, read off the figures of one checkpoint. A goal that is missed is shown as missed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.models.tiny.wilson import shown

if TYPE_CHECKING:
    from icl.models.tiny.evaluate import Counts, Figures

CHANCE = {"operators": 0.15, "attribute": 0.2}  # zero-shot accuracies that count as near chance, open vocabulary


@dataclass(frozen=True)
class Goal:
    """One line of the card."""

    name: str
    wanted: str
    value: float
    text: str
    met: bool


def _share(counts: "Counts") -> float:
    return counts[0] / counts[1] if counts[1] else float("nan")


def goals(figures: "Figures") -> list[Goal]:
    """The goals in the card's order. Figures without easy-vqa or retrieval leave those goals out."""
    out: list[Goal] = []

    def goal(name: str, counts: "Counts", least: float | None = None, most: float | None = None) -> None:
        value = _share(counts)
        met = (least is None or value >= least) and (most is None or value <= most)
        out.append(Goal(name, f">= {least:.2f}" if least is not None else f"<= {most:.2f}", value, shown(counts), met))

    if "easy-vqa test" in figures:
        goal("easy-vqa test, 0 shots", figures["easy-vqa test"]["all"]["0"], 0.95)
    for name, least in (("2-way", 0.98), ("4-way", 0.95), ("8-way", 0.85)):
        goal(f"binding {name}, 8 shots", figures["binding"][name]["8"], least)
    for kind in ("texture", "size", "count"):
        for how in ("named", "not named"):
            cell = figures["binding by attribute"][f"{kind}, {how}"]["8"]
            goal(f"binding by {kind} ({how} in the question), 2-way, 8 shots", cell, 0.85)
    for name in ("operators", "attribute"):
        cells = figures["rule in the demonstrations"][name]
        goal(f"{name}, 4 shots", cells["4"], 0.95)
        goal(f"{name}, 0 shots (near chance)", cells["0"], None, CHANCE[name])
    out += _no_fall(figures)
    if "retrieval, 8 concepts" in figures:
        pool = figures["retrieval, 8 concepts"]
        for shots in ("2", "4", "8"):
            gain = _share(pool["nearest"][shots]) - _share(pool["random"][shots])
            text = f"{shown(pool['nearest'][shots])} against {shown(pool['random'][shots])}"
            out.append(Goal(f"nearest over random, 8 concepts, {shots} shots", ">= +0.20", gain, text, gain >= 0.2))
    told = {name: cells[""] for name, cells in figures["captions"].items()}
    for label in ("scenes of seen concepts", "scenes with a held-out concept"):
        goal(f"CHAIR_I, {label}", told[f"CHAIR_I, {label}"], None, 0.15)
        goal(f"captions of 8 to 20 words, {label}", told[f"8 to 20 words, {label}"], 0.99)
    return out


def _no_fall(figures: "Figures") -> list[Goal]:
    """The largest fall from 4 or 8 shots to 16, a line a group; met where it is within .03."""
    groups = ("binding", "binding by attribute", "rule in the demonstrations", "questions", "existence")
    fall: Callable[[dict[str, Counts]], float] = lambda c: max(_share(c["4"]), _share(c["8"])) - _share(c["16"])  # noqa: E731
    out = []
    for group in groups:
        worst, name = max((fall(cells), name) for name, cells in figures[group].items())
        text = f"largest fall {worst:+.3f} ({name})"
        out.append(Goal(f"no fall from 4 or 8 to 16 shots, {group}", "<= 0.03", worst, text, worst <= 0.03))
    return out


def standing(figures: "Figures") -> float:
    """What seeds are ranked by: the mean accuracy of the goals for names and rules, on generated pictures alone."""
    shares = [_share(figures["binding"][name]["8"]) for name in ("2-way", "4-way", "8-way")]
    by = figures["binding by attribute"]
    shares += [
        _share(by[f"{kind}, {how}"]["8"]) for kind in ("texture", "size", "count") for how in ("named", "not named")
    ]
    shares += [_share(figures["rule in the demonstrations"][name]["4"]) for name in ("operators", "attribute")]
    return sum(shares) / len(shares)


def median_seed(stored: dict[int, "Figures"]) -> int:
    """The seed in the middle by `standing`; of an even number the better of the two."""
    ranked = sorted(stored, key=lambda seed: standing(stored[seed]))
    return ranked[len(ranked) // 2]
