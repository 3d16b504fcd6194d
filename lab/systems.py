"""The page of published systems: docs/systems.md from docs/systems.yaml, with the numbers in docs/systems.json.

    python -m lab.systems                    writes the page
    python -m lab.systems --stale            computes the proofs whose experiment has changed, then writes both files
    python -m lab.systems --prove            computes every proof
    python -m lab.systems --prove VCD MoICL  computes the proofs of the systems whose names contain one of these words

A proof is an experiment file with one claim (`experiments.results.claims`): an arm, the control that it is compared
with, and the sign of the difference. A system works if the 95 % interval of the difference leaves out 0 on the side
that the claim states; otherwise it runs. A number belongs to the text of its experiment: `is_stale` compares digests.
`against` may list several controls, such as one control under several seeds. The arm must beat each of them, and the
number is the one of the control with the smallest margin (`Number.margin`).
"""

import argparse
import contextlib
import io
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from experiments.cli.main import main as icl
from experiments.config.yaml_document import parse_yaml, to_flow_yaml
from experiments.results.claims import expected_sign, judge_claims
from experiments.results.view_run import view_run
from icl import ConfigError, ICLError, canonical_digest, load_run

ROOT = Path(__file__).parents[1]
TABLE, PAGE, NUMBERS = (ROOT / "docs" / f"systems.{end}" for end in ("yaml", "md", "json"))
CLAIM_KEYS = ("arm", "against", "expect", "metric")

HEAD = """# Published systems

Each row is a published system and what runs it here. To run it, put its keys into this file, in place of the same
keys, and run `icl run FILE`:

```yaml
{base}
```

The page of a component (`icl ls KIND NAME`) has the paper, the formula, the controls, and the differences from the
released code. You provide the files that a row names, such as `captions.txt`. An essential part of the system is
missing in rows that say "partial" ({partial}).

The column *proof* says whether a measurement shows that the system works. A proof compares an arm with its control: it
gives both mean scores, their paired difference with the 95 % interval, the number of pairs, and the task in
parentheses. The model is the shipped `tiny`, unless the parentheses name another one or an adapter of it. `fake-vote`
answers with the vote of the demonstrations, so its accuracy measures the retriever.

- A system **works** if the interval excludes 0 in the direction that the paper claims: {works} of {rows}.
- Otherwise it **runs** without a failed sample, but no number shows the paper's effect; the cell says why.

Intervals are corrected within an experiment, not over the rows. For some rows, several tasks, settings or sizes were
tried before one was chosen. One such trial stands in its cell; the others were not recorded. Choosing an experiment by
its result makes it easier for the interval to exclude 0, so **works** is weaker than a preregistered test.

`docs/systems.yaml` has the experiment of each proof. `python -m lab.systems --prove` computes all {numbers} again,
and writes this page. The tests recompute some proofs, and fail if an experiment has changed without a new number; `make
nightly` recomputes all. The proofs test the code on small models. They are no evidence about a method on larger models.
"""


@dataclass(frozen=True)
class Number:
    """The result of a proof.

    Attributes:
        experiment: Digest of the experiment's text.
        mean: Score of the arm.
        control: Score of the control.
        difference: Mean of the paired differences, arm minus control.
        low, high: Ends of the 95 % interval of the difference.
        n: Number of pairs.
        sign: 1 if the claim states a positive difference, else -1.
    """

    experiment: str
    mean: float
    control: float
    difference: float
    low: float
    high: float
    n: int
    sign: int

    @property
    def margin(self) -> float:
        """Distance of the interval from 0 on the side that the claim states; negative if 0 is in it or beyond."""
        return min(self.sign * self.low, self.sign * self.high)

    @property
    def works(self) -> bool:
        """Whether the interval leaves out 0 on the side that the claim states."""
        return self.margin > 0


def table() -> Mapping[str, Any]:
    """The content of `docs/systems.yaml`."""
    content: Mapping[str, Any] = parse_yaml(TABLE.read_text(encoding="utf-8"), "systems.yaml")[0]
    return content


def numbers() -> dict[str, Number]:
    """System -> the number of its proof."""
    if not NUMBERS.exists():
        return {}
    return {name: Number(**one) for name, one in json.loads(NUMBERS.read_text(encoding="utf-8")).items()}


def experiment(row: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment file of a row's proof, with a claim against each control, and its commands.

    A command is `python -m MODULE ...`, or one of `icl` without this word.
    """
    proof = row["proof"]
    claim = {"claim": row["system"], **{key: proof[key] for key in CLAIM_KEYS if key in proof}}
    claims = [{**claim, "against": one} for one in _controls(proof)]
    keys = {**content["proof_base"], **proof["keys"], "claims": claims}
    axes = keys.get("grid", {}).keys() | keys.get("zip", {}).keys()
    commands = proof.get("commands", ["fit proof.yaml" if "tune" in keys else "run proof.yaml"])
    return {"commands": commands, "keys": {key: value for key, value in keys.items() if key not in axes}}


def is_stale(row: Mapping[str, Any], content: Mapping[str, Any], number: Number) -> bool:
    """Whether the number belongs to another experiment than the row's."""
    return number.experiment != canonical_digest(experiment(row, content))


def prove(row: Mapping[str, Any], content: Mapping[str, Any], folder: Path) -> Number:
    """Runs the experiment of a row's proof in a folder.

    Raises:
        ConfigError: A command fails, or the run does not test the claim.
    """
    made = experiment(row, content)
    text = "\n".join(f"{key}: {to_flow_yaml(value)}" for key, value in made["keys"].items())
    (folder / "proof.yaml").write_text(text, encoding="utf-8")
    with contextlib.chdir(folder):
        for command in made["commands"]:
            output = io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                program, *words = shlex.split(command)
                code = import_module(words[1]).main(words[2:]) if program == "python" else icl([program, *words])
            if code:
                raise ConfigError(f"{row['system']}: `{command}` failed: {output.getvalue()[-1500:]}")
        judged = judge_claims(view_run(load_run(folder / "runs" / "proof")))
    results = [(one, one.comparison.result) for one in judged if one.comparison.result is not None]
    if len(results) != len(made["keys"]["claims"]):
        why = "; ".join(one.reason for one in judged)
        raise ConfigError(f"{row['system']}: {len(results)} results of {len(made['keys']['claims'])} claims. {why}")
    against_controls = [
        Number(
            experiment=canonical_digest(made),
            mean=round(one.comparison.mean, 4),
            control=round(one.comparison.reference_mean, 4),
            difference=round(result.difference, 4),
            low=round(result.low, 4),
            high=round(result.high, 4),
            n=result.pairs,
            sign=expected_sign(one.claim, one.comparison),
        )
        for one, result in results
    ]
    return min(against_controls, key=lambda one: one.margin)


def save(measured: Mapping[str, Number]) -> None:
    """Writes the numbers of rows with a proof, in the order of the table."""
    order = [row["system"] for row in table()["rows"] if "proof" in row and row["system"] in measured]
    lines = [f"{json.dumps(name)}: {json.dumps(asdict(measured[name]))}" for name in order]
    NUMBERS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def page() -> str:
    """The text of the page."""
    content, measured = table(), numbers()
    rows = content["rows"]
    lines = ["| system | paper | here | keys or command | note | proof |", "|---|---|---|---|---|---|"]
    for row in rows:
        ways = [f"`{key}: {to_flow_yaml(value)}`" for key, value in row.get("keys", {}).items()]
        ways += [f"`icl analyze RUN {row['analyze']}`"] if "analyze" in row else []
        ways += [f"`{command}`" for command in row.get("commands", ())]
        cells = (row["system"], row["paper"], row["uses"], "<br>".join(ways), row.get("note", ""))
        lines.append(f"| {' | '.join(cells)} | {proof_cell(row, measured.get(row['system']))} |")
    head = HEAD.format(
        base="\n".join(f"{key}: {to_flow_yaml(value)}" for key, value in content["base"].items()),
        rows=len(rows),
        partial=sum(str(row.get("note", "")).startswith("partial") for row in rows),
        works=sum(one.works for one in measured.values()),
        numbers=len(measured),
    )
    return head + "\n" + "\n".join(lines) + "\n"


def proof_cell(row: Mapping[str, Any], number: Number | None) -> str:
    """The number of a row with its control, why it does not show that the system works, and what was tried before."""
    why = row.get("runs", "")
    if number is None:
        return f"runs: {why}"
    proof = row["proof"]
    keys = proof["keys"]
    arm, (control, *others) = _setting(proof["arm"]), map(_setting, _controls(proof))
    interval = f"[{_signed(number.low)}, {_signed(number.high)}]"
    model = keys.get("model", {})
    name = model if isinstance(model, str) else model.get("adapter")
    where = keys["task"]["name"] + (f", {name}" if name else "")
    text = (
        f"{'**works**' if number.works else 'runs'}: `{arm}` {_plain(number.mean)}, "
        f"{f'the best of {len(others) + 1} controls like ' if others else ''}`{control}` "
        f"{_plain(number.control)}, {_signed(number.difference)} {interval}, n {number.n} ({where}{_metric(proof)})"
    )
    return "; ".join(filter(None, (text, why, row.get("tried"))))


def _controls(proof: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    against = proof["against"]
    return against if isinstance(against, list) else [against]


def _setting(setting: Mapping[str, Any]) -> str:
    """An arm in words; an adapter by the name of its folder."""
    text = ", ".join(f"{axis} {value}" for axis, value in setting.items())
    text = text.replace("tiny(adapter=None)", "tiny").replace("adapters/proof/", "")
    return re.sub(r"tiny\(adapter=(?:adapters/)?(\w+)(?:/tuned)?\)", r"\1", text)


def _metric(proof: Mapping[str, Any]) -> str:
    return f", {proof['metric']}" if "metric" in proof else ""


def _plain(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _signed(value: float) -> str:
    return f"{'−' if value < 0 else '+'}{_plain(abs(value))}"


def main(argv: Sequence[str] | None = None) -> str | None:
    """Computes proofs if asked to, and writes the page. Returns the errors of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="parts of the names of systems")
    parser.add_argument("--prove", action="store_true", help="compute the proofs; without words, all of them")
    parser.add_argument("--stale", action="store_true", help="compute the proofs whose experiment has changed")
    options = parser.parse_args(argv)
    content, measured = table(), numbers()
    proved = [row for row in content["rows"] if "proof" in row]
    failed: list[str] = []
    for row in proved:
        name = row["system"]
        old = measured.get(name)
        is_chosen = options.prove and any(word in name for word in options.words or [name])
        if is_chosen or (options.stale and (old is None or is_stale(row, content, old))):
            try:
                with tempfile.TemporaryDirectory() as folder:
                    measured[name] = prove(row, content, Path(folder))
            except ICLError as error:
                failed.append(str(error))
                continue
            print(f"{name}: {proof_cell(row, measured[name])}", flush=True)
            save({**numbers(), name: measured[name]})
    PAGE.write_text(page(), encoding="utf-8")
    return "\n".join(failed) or None


if __name__ == "__main__":
    sys.exit(main())
