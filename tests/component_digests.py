"""Digests of every registered component and preset.

`python tests/component_digests.py` writes `component_digests.json`. A digest covers the component's name and all its
parameters. Stored cells are found by these digests, so a changed digest means that finished samples are computed
again: change the file only together with the store's format number.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

FILE = Path(__file__).with_suffix(".json")


def nodes() -> Iterator[tuple[str, str, Any]]:
    """(kind, name, node) of every component that its defaults or one of its presets can build."""
    from icl.registry import PACKAGES, entries, resolve

    for kind in PACKAGES:
        for name in entries(kind):
            yield kind, name, {"name": name}
            for preset in getattr(resolve(kind, name), "presets", {}):
                yield kind, f"{name}[{preset}]", {"name": name, "preset": preset}


def digests() -> dict[str, str]:
    """'kind name[preset]' -> digest of its canonical JSON; components with required parameters are left out."""
    from icl.errors import ConfigError
    from icl.registry import build, describe
    from icl.text.json_text import canonical_digest

    by_name = {}
    for kind, name, node in nodes():
        try:
            built = build(kind, node)
        except ConfigError:
            continue
        by_name[f"{kind} {name}"] = canonical_digest(describe(built))[:16]
    return by_name


if __name__ == "__main__":
    FILE.write_text(json.dumps(digests(), indent=1) + "\n", encoding="utf-8")
