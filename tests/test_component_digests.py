import json

from tests.component_digests import FILE, digests


def test_digests_of_components_and_presets_do_not_change_by_accident() -> None:
    assert digests() == json.loads(FILE.read_text(encoding="utf-8"))
