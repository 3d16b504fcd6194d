from pathlib import Path

import pytest

from experiments.store.imported import IMPORTED, refuse_imported
from icl.errors import StoreError


def test_a_run_from_logs_is_refused_by_its_mark(tmp_path: Path) -> None:
    refuse_imported(tmp_path, {"cells": []})
    with pytest.raises(StoreError, match=r"was imported from logs of another harness \(`icl import`\)"):
        refuse_imported(tmp_path, {IMPORTED: ["inspect"]})
