"""Which of vLLM's warnings a run passes on."""

import logging
from pathlib import Path

import pytest

from icl.models.vllm.log_filter import EXPECTED, ExpectedMessageFilter, hide_expected_messages


def test_what_follows_from_the_toolkits_own_settings_is_kept_back_and_nothing_else(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("vllm.v1.worker.cpu_worker")
    heard: list[str] = []
    ears = logging.Handler()
    monkeypatch.setattr(ears, "emit", lambda record: heard.append(record.getMessage()))
    for name in EXPECTED:  # whatever an engine of the tests has made of them
        caplog.set_level(logging.WARNING, name)
        monkeypatch.setattr(logging.getLogger(name), "handlers", [ears])
        monkeypatch.setattr(logging.getLogger(name), "propagate", False)
    hide_expected_messages()
    hide_expected_messages()
    assert [type(one) for one in logger.filters] == [ExpectedMessageFilter]
    threads = "CPU backend doesn't allow to use `torch.set_num_threads` after the thread binding, skip it."
    logger.warning(threads)
    logger.warning("%s is not found in LD_PRELOAD.", "libtcmalloc")
    logger.error(threads)
    logging.getLogger("vllm.config.scheduler").warning("Using custom scheduler class %s.", "ours")
    assert heard == ["libtcmalloc is not found in LD_PRELOAD.", threads]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_logger_that_says_it_is_the_module_of_its_name(name: str) -> None:
    vllm = pytest.importorskip("vllm")
    source = (Path(vllm.__file__).parents[1] / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
    for beginning in EXPECTED[name]:
        assert beginning[:20] in source
