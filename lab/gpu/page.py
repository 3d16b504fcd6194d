"""The page of `python -m lab.gpu`: a table with a row for each check, and the same as JSON."""

import html
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icl import __version__
from lab.gpu.run import BenchRow

PAGE_FILE, JSON_FILE = "doctor.html", "doctor.json"
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1c2530 }
table { border-collapse: collapse; width: 100% }
th, td { border-top: 1px solid #d8dee6; padding: .45rem .6rem; text-align: left; vertical-align: top }
thead th { border-top: 0 } .figures { padding: 0 } .figures div { padding: .45rem .6rem }
.figures td { border-top: 1px dotted #d8dee6 }
.status { font-weight: 600; white-space: nowrap } .number { text-align: right; white-space: nowrap }
.ok { color: #12703c } .red { color: #b3261e } .not { color: #67727e } .note { color: #67727e; font-size: .9em }
"""
REMARK = (
    "The criteria of rows 3 to 6 and 10 to 12 are proposals: no page of a GPU has confirmed them yet. "
    "Weights are random, so answers mean nothing."
)


@dataclass
class BenchPage:
    """All rows of a bench, and what they were measured on.

    Attributes:
        notes: What was left out, and the checkpoints that were made.
    """

    device: str
    is_quick: bool
    since: str
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    rows: list[BenchRow] = field(default_factory=list)

    @property
    def is_ok(self) -> bool:
        return all(row.status != "red" for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        return {
            "ok": self.is_ok, "version": __version__, "machine": platform.platform(), "device": self.device,
            "quick": self.is_quick, "since": self.since, "seconds": round(self.seconds, 1), "notes": self.notes,
            "rows": [row.to_dict() for row in self.rows],
        }  # fmt: skip

    def write(self, folder: Path) -> None:
        """Writes page and JSON."""
        for name, text in ((PAGE_FILE, self.html()), (JSON_FILE, json.dumps(self.to_dict(), indent=2))):
            (folder / name).write_text(text, encoding="utf-8")

    def html(self) -> str:
        """The page."""
        counts = ", ".join(
            f"{sum(row.status == status for row in self.rows)} {status}" for status in ("ok", "red", "not here")
        )
        summary = f"{counts} · {self.seconds / 60:.1f} minutes · {self.device} · mm-icl {__version__} · {self.since}"
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in (*self.notes, REMARK))
        head = "".join(f"<th>{name}</th>" for name in ("#", "check", "passes when", "result", "figures", "time"))
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>icl doctor</title>'
            f"<style>{STYLE}</style><h1>python -m lab.gpu{' --quick' if self.is_quick else ''}</h1>"
            f"<p>{html.escape(summary)}</p><ul class=note>{notes}</ul>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, self.rows))}</tbody></table></html>\n"
        )


def _row(row: BenchRow) -> str:
    cells = (row.title, row.passes)
    text = f"<div>{html.escape(row.text)}</div>" if row.text else ""
    time = f"{row.seconds:.1f} s" if row.seconds else ""
    return (
        f'<tr id="check-{row.number}"><td class=number>{row.number}</td>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        + f'<td class="status {row.status}">{row.status}</td>'
        + f"<td class=figures>{text}{_figures(row)}</td><td class=number>{time}</td></tr>"
    )


def _figures(row: BenchRow) -> str:
    if not row.figures:
        return ""
    lines = "".join(
        f'<tr><td>{html.escape(figure.name)}</td><td class="{_mark(figure.passes)}">{html.escape(figure.measured)}</td>'
        f"<td class=note>{html.escape(figure.expected)}</td></tr>"
        for figure in row.figures
    )
    return f"<table>{lines}</table>"


def _mark(passes: bool | None) -> str:
    return "" if passes is None else "ok" if passes else "red"


def text_lines(row: BenchRow) -> Sequence[str]:
    """The row for a terminal."""
    time = f"   {row.seconds:.1f} s" if row.seconds else ""
    first = f"{row.status:<8}  {row.number:>2}  {row.title}{time}"
    figures = [
        f"{'':14}{figure.name}: {figure.measured}" + (f" ({figure.expected})" if figure.expected else "")
        for figure in row.figures
    ]
    return [first, *([f"{'':14}{row.text}"] if row.text else []), *figures]
