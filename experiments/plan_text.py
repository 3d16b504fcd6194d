"""A plan in a few lines, for the terminal."""

from collections.abc import Iterator

from experiments.plan import ArmPlan, Plan


def lines(plan: Plan) -> Iterator[str]:
    """The lines of `icl plan`."""
    config, work = plan.grid.config, plan.work
    seeds = f" x {len(config.seeds)} seeds" if len(config.seeds) > 1 else ""
    shared = f" ({plan.sharing} share their demonstrations)" if plan.sharing else ""
    yield f"{plan.arms} arms{seeds}{shared}   {len(plan.grid.cells):,} cells   {plan.samples:,} samples"
    if plan.present:
        yield f"reused       {plan.present:,} samples are there already, {plan.samples - plan.present:,} are to do"
    edited = f" and {about(work.edited)} edits of them" if work.edited else ""
    shown = about(work.pictures_shown)
    yield f"pictures     {about(work.pictures)} distinct{edited}, encoded once; shown {shown} times"
    yield f"prompts      {about(work.prompts)} prefilled of {about(work.prompts_alone)} that the arms read"
    spared = f" ({1 - work.tokens / work.tokens_alone:.0%} spared)" if work.tokens_alone else ""
    yield f"tokens       {about(work.tokens)} forwarded of {about(work.tokens_alone)} with every sample alone{spared}"
    counted = "; ".join(f"{title} {n:,} of {of:,}" for title, (n, of) in plan.counted.items() if n < of)
    if counted:
        yield f"             estimated from a random choice of queries: {counted}"
    if work.failed:
        yield f"             {about(work.failed)} samples have no prompt (an unreadable picture, a full context)"
    yield ""
    yield from _table(plan)
    controls = [arm.label for arm in plan.decodings if arm.control]
    if controls:
        yield f"controls added: {len(controls)} ({', '.join(controls)})"
    for title, least in plan.smallest.items():
        yield f"smallest paired difference this can see on {title} (80 % power, one pair in five differs): {least:.3f}"
    yield from plan.notes


def about(count: float) -> str:
    """'3,140', '96 M': as many digits as an estimate deserves."""
    if count >= 10e9:
        return f"{count / 1e9:,.0f} G"
    if count >= 10e6:
        return f"{count / 1e6:,.0f} M"
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{round(count):,}"


def _table(plan: Plan) -> Iterator[str]:
    head = ("decoding", "engine", "branches", "hidden temperature")
    rows = [head, *map(_row, plan.decodings)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        yield "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _row(arm: ArmPlan) -> tuple[str, ...]:
    more = " + generates first" if arm.prepares else ""
    temperature = "varies" if arm.temperature is None else f"{arm.temperature:.3g}"
    return arm.label, arm.engine, f"{arm.branches}{more}", temperature
