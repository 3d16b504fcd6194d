"""Reading a run directory without trust, one inside another."""

from pathlib import Path

import pytest

from icl.errors import ConfigError
from icl.untrusted import refuse_untrusted, untrusted, untrusted_run

RUN, OTHER = Path("runs/a"), Path("runs/b")


def test_trust_is_not_gained_inside_a_run_that_is_read_without_it() -> None:
    with untrusted(RUN):
        with untrusted(None):
            assert untrusted_run() == RUN
            with pytest.raises(ConfigError, match=r"x\.yaml:1: runs/a: mine is not imported without --trust"):
                refuse_untrusted("mine is not imported", "x.yaml:1: ")
        with untrusted(OTHER):
            assert untrusted_run() == OTHER
        assert untrusted_run() == RUN
    assert untrusted_run() is None
    refuse_untrusted("mine is not imported")


def test_an_error_inside_ends_the_refusal() -> None:
    with pytest.raises(ConfigError), untrusted(RUN):
        refuse_untrusted("mine is not imported")
    with untrusted(None):
        assert untrusted_run() is None
