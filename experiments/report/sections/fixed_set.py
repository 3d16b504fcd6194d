"""A fixed set of demonstrations: its held-out score, with random sets, free sets and luck (`icl optimize`)."""

from typing import Any

from experiments.report.section import Column, Section, Sentence
from experiments.running.optimize import Optimized, SetScores
from experiments.stats import estimate_mean, format_count, format_interval, format_share, format_signed
from icl import pd


def fixed_set_section(result: Optimized) -> Section:
    """What a search was worth. No dev score stands without the held-out one."""
    best, random, options = result.rows[0], result.rows[-1], result.options
    dev, test = len(result.setting.dev), len(result.setting.test)
    free = [row for row in result.rows if row.name.startswith("free")]
    over = [("the mean random set", random)]
    if free:
        best_free = max(free, key=lambda row: float(row.test.mean()))
        over.append((best_free.name.replace("free: ", "the best free set, "), best_free))
    numbers = [f"{_gain(result, best, row)} over {name}" for name, row in over]
    sentences = [
        Sentence(" → ".join(demo.answer for demo in result.demos), f"({', '.join(result.choice.demos)})", asks="Set:"),
        Sentence(
            f"{format_share(float(best.test.mean()))} on {format_count(test, 'held-out query', 'held-out queries')}.",
            f"{'; '.join(numbers)}.",
            asks="Held out:",
        ),
        Sentence(_curse(result, best), asks="Winner's curse:"),
        Sentence(_noise(result), asks="Permuted scores:"),
        Sentence(
            f"{result.choice.calls:,} calls of {options.budget:,} for the search, {result.calls:,} with all "
            f"comparisons; {result.tokens:,} prompt tokens. {result.paid:,} calls were paid now.",
            asks="Price:",
        ),
    ]
    if result.options.instructions:
        text = result.setting.instruction(result.choice.demos)
        tried = format_count(len(result.setting.instructed), "instruction")
        own = "the study's own" if text is None else f"'{text}'"
        sentences.insert(1, Sentence(f"{own}, of {tried} (composer.instruction_text).", asks="Instruction:"))
    if result.uses > 1:
        sentences.append(
            Sentence(
                f"{result.uses} searches have used these held-out queries, or some of them. Taking the best of them is "
                "selection on test queries: report all of them, or evaluate the last one on queries that no search "
                "has used.",
                asks="Held-out queries used again:",
            )
        )
    columns = [
        Column("name", "demonstrations"),
        Column("score", f"held-out {options.objective}", "estimate"),
        Column("gain", "over random sets", "signed"),
        Column("interval", "95 %", "interval", ("gain_low", "gain_high")),
        Column("accuracy", "accuracy", "share", spare=1),
        Column("dev_gain", "dev gain", "signed"),
        Column("forecast", "forecast", "signed", spare=3),
        Column("sets", "sets", "count", spare=4),
        Column("calls", "calls", "count", spare=2),
    ]
    return Section(
        "fixed-set",
        "One set of demonstrations for all queries",
        sentences,
        pd.DataFrame([_values(result, row) for row in result.rows]),
        columns,
        faint="is_control",
        notes=[
            f"{dev:,} dev queries select the set, and {test:,} held-out queries measure it. They share no group and no "
            "image. The dev gain is the dev score minus the score of the mean random set. Its forecast assumes as many "
            "independent sets.",
            *result.notes,
        ],
    )


def _gain(result: Optimized, row: SetScores, over: SetScores) -> str:
    gain = result.gain(row, over)
    return f"{format_signed(gain.mean)} {format_interval(gain.low, gain.high)}"


def _curse(result: Optimized, best: SetScores) -> str:
    held_out = result.gain(best, result.rows[-1]).mean
    assert best.dev_gain is not None
    text = (
        f"the gain is {format_signed(best.dev_gain)} on dev queries and {format_signed(held_out)} on held-out ones, a "
        f"difference of {format_signed(held_out - best.dev_gain)}"
    )
    if best.forecast is None:
        return f"{text}. There is no forecast for a search whose sets depend on each other."
    return f"{text}. The forecast from dev scores alone is {format_signed(-best.forecast.curse)}."


def _noise(result: Optimized) -> str:
    (null,) = (row for row in result.rows if row.name == "permuted scores")
    assert null.dev_gain is not None
    return (
        f"the same search gains {format_signed(null.dev_gain)} on dev queries where no set is better than another, and "
        f"{_gain(result, null, result.rows[-1])} held out."
    )


def _values(result: Optimized, row: SetScores) -> dict[str, Any]:
    score, gain = estimate_mean(row.test, result.units(row)), result.gain(row, result.rows[-1])
    is_random = row is result.rows[-1]
    return {
        "name": row.name,
        "score": score.mean,
        "low": score.low,
        "high": score.high,
        "gain": None if is_random else gain.mean,
        "interval": None if is_random else gain.mean,
        "gain_low": None if is_random else gain.low,
        "gain_high": None if is_random else gain.high,
        "accuracy": float(row.right.mean()),
        "dev_gain": row.dev_gain,
        "forecast": None if row.forecast is None else row.forecast.dev_gain,
        "sets": None if row.choice is None else row.choice.sets,
        "calls": None if row.choice is None else row.choice.calls,
        "is_control": row is not result.rows[0],
    }
