import pytest

from icl.cli.ls import command


def test_a_key_of_the_config_lists_the_kind_that_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    command("decoding")
    by_key = capsys.readouterr().out
    command("strategies")
    assert by_key == capsys.readouterr().out
    assert "vcd" in by_key
