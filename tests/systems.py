"""The page of published systems: `python tests/systems.py` writes `docs/systems.md` from `docs/systems.yaml`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

TABLE, PAGE = ROOT / "docs" / "systems.yaml", ROOT / "docs" / "systems.md"

HEAD = """# Published systems

Each row is a published system and what runs it here. The keys belong into this file, in place of its own. `icl run
FILE` runs it:

```yaml
{base}
```

The page of a component (`icl ls KIND NAME`) has the paper, the formula, the controls, and the differences from the
released code. Files that a row names, such as `captions.txt`, are yours.

The tests run the keys of {running} of {rows} rows on the shipped model, mostly with one query, and check that no sample
fails. **They do not check that a method works**: no row has a number with a control yet. In {partial} rows an essential
part of the system is missing ("partial"). `python tests/systems.py` writes this page from `docs/systems.yaml`.
"""


def table() -> Mapping[str, Any]:
    """The content of `docs/systems.yaml`."""
    from experiments.config.yaml_document import parse_yaml

    content: Mapping[str, Any] = parse_yaml(TABLE.read_text(encoding="utf-8"), "systems.yaml")[0]
    return content


def page() -> str:
    """The text of the page."""
    from experiments.config.yaml_document import to_flow_yaml

    content = table()
    base = "\n".join(f"{key}: {to_flow_yaml(value)}" for key, value in content["base"].items())
    rows = content["rows"]
    lines = ["| system | paper | here | keys or command | note |", "|---|---|---|---|---|"]
    for row in rows:
        ways = [f"`{key}: {to_flow_yaml(value)}`" for key, value in row.get("keys", {}).items()]
        ways += [f"`icl analyze RUN {row['analyze']}`"] if "analyze" in row else []
        ways += [f"`{command}`" for command in row.get("commands", ())]
        note = f"**not here**: {row['missing']}" if "missing" in row else row.get("note", "")
        lines.append(f"| {row['system']} | {row['paper']} | {row['uses']} | {'<br>'.join(ways)} | {note} |")
    running = sum("missing" not in row for row in rows)
    partial = sum(str(row.get("note", "")).startswith("partial") for row in rows)
    return HEAD.format(base=base, running=running, rows=len(rows), partial=partial) + "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
