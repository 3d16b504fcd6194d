from pathlib import Path

import pytest

from experiments.store.json_shapes import IMPORTED, MERGED, changed_since_merge, files_size, refuse_imported
from icl.errors import StoreError


def test_a_run_from_logs_is_refused_by_its_mark(tmp_path: Path) -> None:
    refuse_imported(tmp_path, {"cells": []})
    with pytest.raises(StoreError, match=r"was imported from logs of another harness \(`icl import`\)"):
        refuse_imported(tmp_path, {IMPORTED: ["inspect"]})
    with pytest.raises(StoreError, match=r"was merged from other runs \(`icl import`\)"):
        refuse_imported(tmp_path, {MERGED: []})


def test_a_run_that_grew_since_the_merge_is_named_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    merged, runs = tmp_path / "merged", [tmp_path / name for name in ("a", "b")]
    merged.mkdir()
    for run in runs:
        (run / "cells" / "c").mkdir(parents=True)
        (run / "cells" / "c" / "0.jsonl").write_text("{}\n")
        (run / "cells" / "c" / "cell.json").write_text("{}")
    info = {MERGED: [{"run": f"../{run.name}", "bytes": files_size(run)} for run in runs]}
    assert [one["bytes"] for one in info[MERGED]] == [3, 3]
    assert changed_since_merge(merged, info) == changed_since_merge(merged, {}) == ""
    (runs[1] / "cells" / "c" / "1.jsonl").write_text("{}\n")
    sentence = f"{runs[1].resolve()} changed since the merge. Run `icl import` again to read the new samples."
    assert changed_since_merge(merged, info) == sentence
    runs[1].rename(tmp_path / "gone")
    assert changed_since_merge(merged, info) == ""
