"""MODEL_CARD.md: the figures of the shipped checkpoints, computed here, next to the stored figures of all seeds."""

import hashlib
import json
from pathlib import Path

from lab.tiny.evaluate import Counts, Figures, evaluate
from lab.tiny.goals import goals, median_seed, standing
from lab.tiny.pool import make_pool
from lab.tiny.precision import LogitAgreement, agreements
from lab.tiny.vocabulary import TOKENS
from lab.tiny.wilson import format_proportion

HERE = Path(__file__).parent
CHECKPOINTS = HERE.parents[1] / "icl" / "models" / "tiny" / "checkpoints"
RESULTS = HERE / "results"


def seeds() -> dict[int, Figures]:
    """The stored figures of each seed's checkpoint."""
    return {int(p.stem.removeprefix("seed")): json.loads(p.read_text()) for p in sorted(RESULTS.glob("seed*.json"))}


def weights_digest(path: Path) -> str:
    """sha256 of a checkpoint's weights."""
    return hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()


def shipped_seed(stored: dict[int, Figures]) -> int:
    """The median seed. Raises ValueError if the shipped weights are not that seed's (results/weights.json)."""
    seed, digests = median_seed(stored), json.loads((RESULTS / "weights.json").read_text())
    if digests[str(seed)] != weights_digest(CHECKPOINTS / "vlm"):
        raise ValueError(f"checkpoints/vlm does not hold the weights of the median seed {seed}; copy them there first")
    return seed


def megabytes(path: Path) -> str:
    """Size of a folder's files."""
    return f"{sum(file.stat().st_size for file in path.iterdir()) / 1e6:.1f}"


def write_card(out: Path, n: int = 200) -> None:
    """Evaluate the shipped checkpoints and write the card."""
    stored = seeds()
    seed = shipped_seed(stored)
    figures: Figures = json.loads(json.dumps(evaluate(CHECKPOINTS / "vlm", CHECKPOINTS / "encoder", n, easy=True)))
    precise = agreements(CHECKPOINTS / "vlm", make_pool(30_002, 3000))
    out.write_text(card(figures, stored, precise, seed))


def card(figures: Figures, stored: dict[int, Figures], precise: dict[str, LogitAgreement], seed: int) -> str:
    """The text of the card."""
    head = (HERE / "card_head.md").read_text()
    sizes = {"vlm_mb": megabytes(CHECKPOINTS / "vlm"), "encoder_mb": megabytes(CHECKPOINTS / "encoder")}
    ranks = ", ".join(f"{standing(seed_figures):.3f} (seed {s})" for s, seed_figures in stored.items())
    parts = [head.format(seed=seed, tokens=len(TOKENS), ranks=ranks, **sizes)]
    parts += ["## Goals\n", goal_table(figures, stored, precise)]
    parts.append("## Figures of the shipped checkpoint\n\nAccuracy with Wilson 95 % intervals; columns are shots.\n")
    parts += [f"### {group}\n\n{table(rows)}" for group, rows in figures.items()]
    parts.append(
        "### Precision\n\nAgainst float32 prompts run alone, 0 to 16 demonstrations.\n\n" + precision_table(precise)
    )
    parts.append("## All seeds\n\n" + seed_tables(stored))
    parts.append((HERE / "card_tail.md").read_text())
    return "\n".join(parts).rstrip() + "\n"


def row(cells: list[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(cells) + " |\n"


def grid(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return row(head) + row(["---"] * len(head)) + "".join(row(r) for r in rows)


def table(rows: dict[str, dict[str, Counts]]) -> str:
    """One group: a row per name, a column per number of shots."""
    shots = list(dict.fromkeys(s for cells in rows.values() for s in cells))
    lines = [
        [name, *(format_proportion(cells[s]) if s in cells else "" for s in shots)] for name, cells in rows.items()
    ]
    return grid(["", *(s or "share" for s in shots)], lines)


def goal_table(figures: Figures, stored: dict[int, Figures], precise: dict[str, LogitAgreement]) -> str:
    """The goals, the shipped checkpoint's figures and those of all seeds."""
    lines = []
    per_seed = [goals(agreement) for agreement in stored.values()]
    for i, goal in enumerate(goals(figures)):
        others = [f"{g[i].value:.3f}" for g in per_seed if i < len(g)]
        lines.append([goal.name, goal.target, goal.text, "met" if goal.met else "missed", " / ".join(others)])
    for name, agreement in precise.items():
        lines.append(
            [f"{name}: same first token", "what precision explains", f"{agreement.same} of {agreement.n}", "", ""]
        )
    return grid(["goal", "wanted", "shipped checkpoint", "", "seeds " + " / ".join(map(str, stored))], lines)


def precision_table(precise: dict[str, LogitAgreement]) -> str:
    """LogitAgreement with float32 prompts run alone."""
    lines = [[name, f"{a.same} of {a.n}", f"{a.largest:.1e}"] for name, a in precise.items()]
    return grid(["", "same first token", "largest logit difference"], lines)


def seed_tables(stored: dict[int, Figures]) -> str:
    """One row per cell, one column per seed."""
    first = next(iter(stored.values()))
    lines = []
    for group, rows in first.items():
        for name, cells in rows.items():
            for shots in cells:
                shares = [format_proportion(f[group][name][shots]) for f in stored.values()]
                lines.append([group, name, shots, *shares])
    return grid(["", "", "shots", *(f"seed {s}" for s in stored)], lines)
