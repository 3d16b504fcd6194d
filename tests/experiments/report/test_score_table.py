"""The table of scores at any width: which layout, and that nothing is cut or left out."""

import re

import pytest

from experiments.report.score_table import format_score_table
from experiments.report.tables import ScoreRow, TaskTable
from experiments.stats.intervals import Estimate

LONG = "blocks(order=qap, instruction=long, instruction_at=within, request=Question: , response=Answer: )"
FACTORS = ("rerankers", "order", "composer", "retriever", "decoding")
USUAL = ("none", "as_retrieved", "interleaved(first=image, instruction=none)", "knn(by=both)", "greedy")


def cells(*shots: int, mean: float = 0.5) -> dict[int, Estimate]:
    return {k: Estimate(mean + k / 100, mean + k / 100 - 0.06, mean + k / 100 + 0.06, 60, 60) for k in shots}


def table(axes: tuple[str, ...], rows: list[ScoreRow], shots: tuple[int, ...]) -> TaskTable:
    return TaskTable("t", axes, shots, tuple(rows), 60, 3, 0)


def factors() -> TaskTable:
    """One thing is changed at a time."""
    changed = [(), (0, "label_balance"), (1, "random"), (2, LONG), (3, "random"), (3, "knn(by=question)")]
    rows = [
        ScoreRow(tuple(c[1] if c and i == c[0] else u for i, u in enumerate(USUAL)), cells(0, 1, 3)) for c in changed
    ]
    rows.append(ScoreRow(("", "", "", "knn(by=both)", "vote"), cells(1, 3), baseline=True))
    return table(FACTORS, rows, (0, 1, 3))


def product(decodings: tuple[str, ...] = ("greedy", "vcd"), shots: tuple[int, ...] = (0, 2)) -> TaskTable:
    rows = [ScoreRow((r, d), cells(*shots)) for r in ("random", "knn") for d in decodings]
    return table(("retriever", "decoding"), rows, shots)


def printed(table: TaskTable, width: int) -> list[str]:
    return [line.plain for line in format_score_table(table, width)]


def words(lines: list[str]) -> str:
    return re.sub(r"\s+", " ", " ".join(lines))


@pytest.mark.parametrize("width", [60, 80, 100, 140, 240])
@pytest.mark.parametrize("shots", [(0, 2), (0, 1, 2, 3, 4, 5, 6, 8, 12, 16)])
def test_every_label_and_every_number_is_there_and_no_line_is_too_wide(width: int, shots: tuple[int, ...]) -> None:
    decodings = ("greedy", f"mask_only({LONG})", f"sign_flip({LONG})")
    for one in (product(decodings, shots), factors()):
        lines = printed(one, width)
        assert max(map(len, lines)) <= width
        for row in one.rows:
            for label in filter(None, row.labels):
                assert label in words(lines)
        numbers = re.findall(r"\.\d+ ±\.\d+", words(lines))
        assert len(numbers) == sum(len(row.cells) for row in one.rows)


def test_no_column_is_a_letter_wide() -> None:
    for width in (60, 80, 120):
        assert all(len(line.split()[0]) > 1 for line in printed(factors(), width) if line.split())


def test_a_design_of_factors_names_the_usual_once_and_of_each_row_what_differs() -> None:
    lines = printed(factors(), 80)
    assert lines[0].startswith("usual: rerankers none, order as_retrieved,")
    head = next(i for i, line in enumerate(lines) if line.startswith("what differs"))
    assert lines[head + 1].startswith("as usual")
    assert lines[head + 2].startswith("rerankers label_balance ")
    assert lines[head + 3].startswith("order random ")
    assert lines[head + 4].startswith(f"composer {LONG}"[:40])
    assert any(line.startswith("retriever random  ") for line in lines)
    assert lines[-1].startswith("vote")


def test_a_product_has_groups_under_headings() -> None:
    lines = printed(product(("greedy", "mask_only(vcd)", "temperature_matched(vcd)"), (0, 2, 4, 8)), 66)
    assert [line for line in lines if line.startswith("retriever")] == ["retriever random", "retriever knn"]
    assert sum(line.startswith("temperature_matched(vcd)  ") for line in lines) == 2


def test_what_is_one_value_everywhere_is_named_above_where_room_is_short() -> None:
    rows = [ScoreRow((LONG, r, "greedy"), cells(0, 2)) for r in ("random", "knn")]
    lines = printed(table(("composer", "retriever", "decoding"), rows, (0, 2)), 80)
    assert words(lines[:2]) == f"composer {LONG.replace('  ', ' ')}"
    assert lines[2].split() == ["retriever", "decoding", "0", "shots", "2", "shots"]


def test_a_wide_label_stands_above_its_numbers() -> None:
    lines = printed(product(("greedy", f"mask_only({LONG})"), (0, 2, 4, 8)), 80)
    place = next(i for i, line in enumerate(lines) if line.startswith("mask_only("))
    numbers = next(line for line in lines[place:] if "±" in line)
    greedy = next(line for line in lines if line.startswith("greedy"))
    assert numbers.index("±") == greedy.index("±")


def test_many_numbers_of_shots_stand_in_blocks() -> None:
    lines = printed(product(shots=tuple(range(12))), 80)
    heads = [line for line in lines if "shot" in line]
    assert re.findall(r"(\d+) shot", " ".join(heads[: len(heads) // 2])) == [str(k) for k in range(12)]
