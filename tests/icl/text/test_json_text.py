"""Digests identify finished runs, so their spelling does not change."""

import hashlib
import json

from icl.text.json_text import canonical_bytes, canonical_digest

VALUE = {"b": [1, "é"], "a": {"d": None, "c": 0.5}}


def test_each_spelling_is_as_it_was() -> None:
    assert canonical_bytes(VALUE) == b'{"a": {"c": 0.5, "d": null}, "b": [1, "\\u00e9"]}'
    assert canonical_bytes(VALUE, ascii_only=False) == '{"a": {"c": 0.5, "d": null}, "b": [1, "é"]}'.encode()
    assert canonical_bytes(VALUE, ascii_only=False, compact=True) == '{"a":{"c":0.5,"d":null},"b":[1,"é"]}'.encode()
    assert canonical_bytes({"x": 1j}, default=repr) == b'{"x": "1j"}'


def test_a_digest_is_the_sha256_of_the_text() -> None:
    assert canonical_digest(VALUE) == hashlib.sha256(json.dumps(VALUE, sort_keys=True).encode()).hexdigest()
