"""The log messages of vLLM that are hidden."""

import logging
from pathlib import Path

import pytest

from icl.models.vllm.log_filter import EXPECTED, ExpectedMessageFilter, hide_expected_messages


def test_only_messages_about_the_toolkits_own_settings_are_hidden(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("vllm.v1.worker.cpu_worker")
    messages: list[str] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: messages.append(record.getMessage()))
    for name in EXPECTED:  # whatever an engine of the tests has made of them
        caplog.set_level(logging.WARNING, name)
        monkeypatch.setattr(logging.getLogger(name), "handlers", [handler])
        monkeypatch.setattr(logging.getLogger(name), "propagate", False)
    hide_expected_messages()
    hide_expected_messages()
    assert [type(one) for one in logger.filters] == [ExpectedMessageFilter]
    threads = "CPU backend doesn't allow to use `torch.set_num_threads` after the thread binding, skip it."
    logger.warning(threads)
    logger.warning("%s is not found in LD_PRELOAD.", "libtcmalloc")
    logger.error(threads)
    logging.getLogger("vllm.config.scheduler").warning("Using custom scheduler class %s.", "ours")
    assert messages == ["libtcmalloc is not found in LD_PRELOAD.", threads]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_hidden_messages_are_in_the_modules_of_their_loggers(name: str) -> None:
    vllm = pytest.importorskip("vllm")
    source = (Path(vllm.__file__).parents[1] / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
    for text in EXPECTED[name]:
        assert text[:20] in source
