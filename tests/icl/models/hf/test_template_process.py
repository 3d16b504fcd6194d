"""Chat templates are rendered with limits on time, memory and output."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
from tiny_models import prompt
from transformers.utils.chat_template_utils import render_jinja_template

from icl.errors import ModelError
from icl.limited_process import READY
from icl.models.hf import template_process
from icl.models.hf.conversations import messages, script
from icl.models.hf.model import HF
from icl.models.hf.rendering import PromptRenderer
from icl.models.hf.template_process import (
    WORKER,
    TemplateLimitError,
    TemplateProcess,
    TemplateRefusedError,
)
from icl.models.hf.template_worker import SECONDS

CONVERSATION = messages(script(prompt([1, 2], "why?")))
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}"


@pytest.fixture(scope="module")
def process() -> "TemplateProcess":
    return TemplateProcess()


def render(process: TemplateProcess, template: str) -> str:
    return process.render(template, CONVERSATION, True, {"bos_token": "<s>"})


def test_the_text_is_that_of_transformers(process: TemplateProcess) -> None:
    """Its own filters and globals, white space, loop controls and special tokens."""
    template = (
        "{{ bos_token }}{% for m in messages %}\n  {% if loop.index > 9 %}{% break %}{% endif %}\n"
        "{{ m | tojson }}{% for c in m.content %}{{ c.text or 'é' }}{% endfor %}{% endfor %}"
        "{% generation %}{{ dict(a=1) }}{% endgeneration %}{% if add_generation_prompt %}>{% endif %}{{ tools }}"
    )
    (expected,), _ = render_jinja_template(
        [CONVERSATION], chat_template=template, add_generation_prompt=True, bos_token="<s>"
    )
    assert render(process, template) == expected


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for i in range(10**9) %}{% endfor %}", "OverflowError: Range too big"),
        ("{% for %}", "TemplateSyntaxError: Expected an expression"),
        ("{{ raise_exception('no system turn') }}", "^no system turn$"),
        ("{{ messages[0].foo.bar }}", "UndefinedError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError: access to attribute '__class__'"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_an_error_of_a_template_is_its_answer(template: str, says: str, process: TemplateProcess) -> None:
    with pytest.raises(TemplateRefusedError, match=says):
        render(process, template)
    assert render(process, "ok") == "ok"


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a process is limited on Linux only")
@pytest.mark.parametrize(
    "template", ["{{ 'x' * 10**10 }}", DOUBLED, "{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}"]
)
def test_gigabytes_are_stopped_within_seconds(template: str, process: TemplateProcess) -> None:
    start = time.monotonic()
    with pytest.raises(TemplateLimitError, match=r"needs more than 2 GiB of memory|takes longer than 5 seconds"):
        render(process, template)
    assert time.monotonic() - start < 15
    assert render(process, "ok") == "ok"


def test_a_long_output_is_not_a_prompt(process: TemplateProcess) -> None:
    with pytest.raises(TemplateLimitError, match="writes more than 10,000,000 characters"):
        render(process, "{{ 'x' * 10000001 }}")
    assert len(render(process, "{{ 'x' * 10000000 }}")) == 10_000_000


def test_a_template_without_end_is_stopped_once_and_refused_from_then_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a worker whose limit is 1 second, since no more of the 5 is needed to see it."""
    worker, text = tmp_path / WORKER.name, WORKER.read_text(encoding="utf-8")
    worker.write_text(text.replace(f"\nSECONDS = {SECONDS}\n", "\nSECONDS = 1\n"), encoding="utf-8")
    monkeypatch.setattr(template_process, "WORKER", worker)
    monkeypatch.setattr(template_process, "SECONDS", 1)
    process = TemplateProcess()
    with pytest.raises(TemplateLimitError, match="takes longer than 1 seconds"):
        render(process, ENDLESS)
    start = time.monotonic()
    with pytest.raises(TemplateLimitError, match="takes longer than 1 seconds"):
        render(process, ENDLESS)
    assert time.monotonic() - start < 0.5
    assert render(process, "ok") == "ok"
    process.stop()


def test_a_killed_process_is_reported_and_replaced() -> None:
    own = TemplateProcess()
    assert render(own, "ok") == "ok"
    assert own._process is not None
    own._process.kill()
    own._process.wait()
    assert render(own, "ok") == "ok"
    own.stop()


def test_threads_get_their_own_texts(process: TemplateProcess) -> None:
    texts: dict[int, str] = {}

    def one(number: int) -> None:
        texts[number] = render(process, f"{{{{ {number} + 1000 }}}}")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {number: str(number + 1000) for number in range(20)}


def test_the_process_ends_with_its_parent() -> None:
    """Its input ends, also if the parent was killed."""
    child = subprocess.Popen([sys.executable, "-P", str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline().decode().strip() == READY
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(timeout=20) == 0


def test_a_checkpoints_template_is_limited_and_that_of_the_shipped_one_is_rendered_here(
    model_of: Callable[[str], HF], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from transformers import AutoProcessor

    assert HF(path="tiny").renderer.trusted
    hf = model_of("llava")
    assert not hf.renderer.trusted
    processor = AutoProcessor.from_pretrained(hf.path)
    own = PromptRenderer(processor, "a checkpoint")
    processor.chat_template = "{{ 'x' * 10000001 }}"
    with pytest.raises(ModelError, match=r"^a checkpoint: rendering the chat template was stopped, because it writes"):
        own.text(prompt([1]))
    processor.chat_template = "{% for i in range(10**9) %}{% endfor %}"
    with pytest.raises(
        ModelError, match=r"the chat template does not accept these turns \(user\): OverflowError: Range"
    ):
        own.text(prompt([1]))
    processor.chat_template = {"default": tiny_models.TEMPLATE.replace("SLOT", "<image>")}
    assert own.text(prompt([1])) == hf.renderer.text(prompt([1]))
