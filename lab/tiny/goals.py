"""The goals of the models, compared with the figures of one checkpoint. A missed goal is reported as missed."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.tiny.wilson import format_proportion

if TYPE_CHECKING:
    from lab.tiny.evaluate import Counts, Figures


def operator_chance() -> float:
    """The accuracy of the best guess from both digits without the operator, over digits left >= right."""
    shares = []
    for a in range(10):
        for b in range(a + 1):
            results = [a + b, a - b, a * b]
            shares.append(max(results.count(r) for r in results) / len(results))
    return sum(shares) / len(shares)


CHANCE = {"operators": operator_chance(), "attribute": 0.25}  # attribute: one of four, sampled uniformly
NEAR = 0.05


@dataclass(frozen=True)
class Goal:
    """One line of the card."""

    name: str
    target: str
    value: float
    text: str
    met: bool


def _share(counts: "Counts") -> float:
    return counts[0] / counts[1] if counts[1] else float("nan")


def goals(figures: "Figures") -> list[Goal]:
    """The goals in the card's order. Figures without easy-vqa or retrieval leave those goals out."""
    out: list[Goal] = []

    def goal(name: str, counts: "Counts", minimum: float | None = None, maximum: float | None = None) -> None:
        value = _share(counts)
        met = (minimum is None or value >= minimum) and (maximum is None or value <= maximum)
        out.append(
            Goal(
                name,
                f">= {minimum:.2f}" if minimum is not None else f"<= {maximum:.2f}",
                value,
                format_proportion(counts),
                met,
            )
        )

    if "easy-vqa test" in figures:
        goal("easy-vqa test, 0 shots", figures["easy-vqa test"]["all"]["0"], 0.95)
    for name, minimum in (("2-way", 0.98), ("4-way", 0.95), ("8-way", 0.85)):
        goal(f"binding {name}, 8 shots", figures["binding"][name]["8"], minimum)
    for kind in ("texture", "size", "count"):
        for how in ("named", "not named"):
            cell = figures["binding by attribute"][f"{kind}, {how}"]["8"]
            goal(f"binding by {kind} ({how} in the question), 2-way, 8 shots", cell, 0.85)
    for name in ("operators", "attribute"):
        cells = figures["rule in the demonstrations"][name]
        goal(f"{name}, 4 shots", cells["4"], 0.95)
        goal(f"{name}, 0 shots (chance {CHANCE[name]:.2f}, and {NEAR} more)", cells["0"], None, CHANCE[name] + NEAR)
    out += _no_fall(figures)
    if "retrieval, 8 concepts" in figures:
        pool = figures["retrieval, 8 concepts"]
        for shots in ("2", "4", "8"):
            gain = _share(pool["nearest"][shots]) - _share(pool["random"][shots])
            text = f"{format_proportion(pool['nearest'][shots])} against {format_proportion(pool['random'][shots])}"
            out.append(Goal(f"nearest over random, 8 concepts, {shots} shots", ">= +0.20", gain, text, gain >= 0.2))
    captions = {name: cells[""] for name, cells in figures["captions"].items()}
    for label in ("scenes of seen concepts", "scenes with a held-out concept"):
        goal(f"CHAIR_I, {label}", captions[f"CHAIR_I, {label}"], None, 0.15)
        goal(f"captions of 8 to 20 words, {label}", captions[f"8 to 20 words, {label}"], 0.99)
    return out


def _no_fall(figures: "Figures") -> list[Goal]:
    """Whether 16 shots are worse than the better of 4 and 8, with one row per group.

    A two-proportion z test for each cell, Bonferroni over its group; missed where the least p is below .05.
    """
    out = []
    for group in ("binding", "binding by attribute", "rule in the demonstrations", "questions", "existence"):
        falls = {}
        for name, cells in figures[group].items():
            falls[name] = _fall(max(cells["4"], cells["8"], key=_share), cells["16"])
        worst = max(falls, key=lambda n: falls[n][0])
        p = min(1.0, min(p for _, p in falls.values()) * len(falls))
        text = f"largest fall {falls[worst][0]:+.3f} ({worst}), least p {p:.2f}"
        out.append(Goal(f"no fall from 4 or 8 to 16 shots, {group}", "p >= .05", falls[worst][0], text, p >= 0.05))
    return out


def _fall(before: "Counts", after: "Counts") -> tuple[float, float]:
    """(difference of the shares, one-sided p of a fall)."""
    fall, pooled = _share(before) - _share(after), (before[0] + after[0]) / (before[1] + after[1])
    error = math.sqrt(pooled * (1 - pooled) * (1 / before[1] + 1 / after[1]))
    return fall, 0.5 * math.erfc(fall / error / math.sqrt(2)) if error else 1.0


def standing(figures: "Figures") -> float:
    """The rank score of a seed: the mean accuracy of the goals for names and rules, on generated images."""
    shares = [_share(figures["binding"][name]["8"]) for name in ("2-way", "4-way", "8-way")]
    by = figures["binding by attribute"]
    shares += [
        _share(by[f"{kind}, {how}"]["8"]) for kind in ("texture", "size", "count") for how in ("named", "not named")
    ]
    shares += [_share(figures["rule in the demonstrations"][name]["4"]) for name in ("operators", "attribute")]
    return sum(shares) / len(shares)


def median_seed(stored: dict[int, "Figures"]) -> int:
    """The median seed by `standing`; the better of the two for an even number."""
    ranked = sorted(stored, key=lambda seed: standing(stored[seed]))
    return ranked[len(ranked) // 2]
