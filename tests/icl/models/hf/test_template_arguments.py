"""Arguments of the chat template (`model.template`): how prompts change with them, and what a wrong one says."""

import re
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from published_templates import published_template, published_texts
from tiny_models import conversations, image, prompt

from experiments.config.config import load_config
from experiments.contexts.contexts import Retrieval, build_contexts, prompt_specs, render
from experiments.grid.grid import expand
from icl.errors import ModelError
from icl.models.hf import prompt_encoding, rendering
from icl.models.hf.model import HF
from icl.models.hf.prompt_encoding import process_prompt
from icl.models.hf.rendering import PromptRenderer
from icl.models.hf.template_process import PROCESS, argument_names
from icl.models.vllm.model import VLLM
from tests.random_models.twins.twin import save_twin

FolderOf = Callable[[str], Path]

SWITCHES = (
    "{% if style is not defined %}{% set style = 'plain' %}{% endif %}"
    "{% if style not in ['plain', 'loud'] %}{{ raise_exception('Unexpected style ' ~ style) }}{% endif %}"
    "{% for m in messages %}<{{ m['role'] }}{{ '!' if style == 'loud' }}>{% set last = loop.last %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ 'Picture: ' if number_images }}<image>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{{ '<think>' if enable_thinking is not defined or enable_thinking "
    "else '<think></think>' }}{% endif %}{% if never and past_reasoning %}x{% endif %}"
)
"""A template with the switches of published ones: with a default, without one, with few values, and one of no use."""

PUBLISHED = {
    "qwen3_6": ("add_vision_id", "enable_thinking", "preserve_thinking"),
    "qwen3_8": ("add_vision_id", "enable_thinking", "preserve_thinking", "reasoning_effort"),
    "kimi_k2_5": ("thinking", "tools_ts_str"),
    "minimax_m3": ("model_identity", "thinking_mode"),
    "gemma4_31b": ("enable_thinking", "preserve_thinking"),
    "llama3_2_vision": ("custom_tools", "date_string", "tools_in_user_message"),
    "lfm2_5_vl": ("keep_past_thinking",),
    "smolvlm": (),
}
"""Published template -> the arguments that it takes."""


@pytest.fixture
def checkpoint(folder_of: FolderOf, tmp_path: Path) -> Callable[..., HF]:
    """A random checkpoint with a chat template, and the model `hf` with its arguments."""

    def made(text: str = SWITCHES, **arguments: Any) -> HF:
        folder = tmp_path / "checkpoint"
        if not folder.exists():
            shutil.copytree(folder_of("llava"), folder)
        (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
        return HF(path=str(folder), template=arguments)

    return made


def test_prompts_are_written_with_the_arguments_on_every_path(checkpoint: Callable[..., HF]) -> None:
    hf = checkpoint(enable_thinking=False, number_images=True, style="loud")
    (conversation,) = conversations([prompt([1, 2])])
    expected = hf.checkpoint.processor.apply_chat_template(
        conversation, add_generation_prompt=True, enable_thinking=False, number_images=True, style="loud"
    )
    assert expected.count("Picture: ") == 2
    assert expected.startswith("<user!>")
    assert expected.endswith("<think></think>")
    assert hf.render(prompt([1, 2])) == expected
    assert VLLM(hf.path, template=hf.template).render(prompt([1, 2])) == expected
    trusted = PromptRenderer(hf.checkpoint.processor, "shipped", trusted=True, arguments=hf.template)
    assert trusted.text(prompt([1, 2])) == expected


def test_a_processor_with_an_own_way_of_rendering_gets_the_arguments(checkpoint: Callable[..., HF]) -> None:
    """It renders again for the pixels of a whole prompt."""
    hf = checkpoint(enable_thinking=False)
    processor = hf.checkpoint.processor

    class Own(type(processor)):  # type: ignore[misc]
        def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
            return super().apply_chat_template(*args, **kwargs)

    processor.__class__ = Own
    ids = process_prompt(hf.renderer, prompt([1]))["input_ids"][0].tolist()
    assert hf.tokenizer.decode(ids).endswith("<think></think>")
    assert hf.render(prompt([1])).endswith("<think></think>")


def test_arguments_are_in_the_digest_only_if_they_are_set(checkpoint: Callable[..., HF]) -> None:
    plain, off, on = checkpoint(), checkpoint(enable_thinking=False), checkpoint(enable_thinking=True)
    assert len({plain.digest, off.digest, on.digest}) == 3
    assert off.digest == checkpoint(enable_thinking=False).digest
    assert VLLM(off.path, template=off.template).digest != VLLM(off.path).digest
    assert HF("tiny").digest == HF("tiny", template={}).digest


def test_a_name_that_the_template_does_not_read_is_an_error_with_its_names(checkpoint: Callable[..., HF]) -> None:
    with pytest.raises(
        ModelError,
        match=r"^model\.template: the chat template of .* does not read 'enable_thinkin', so it would be ignored\. Did "
        r"you mean 'enable_thinking'\? It takes enable_thinking, never, number_images, past_reasoning, style",
    ):
        _ = checkpoint(enable_thinkin=False).digest
    with pytest.raises(ModelError, match=r"does not read 'messages'"):  # a part of every template, and no setting
        _ = checkpoint(messages=[]).digest
    with pytest.raises(ModelError, match=r"does not read 'bos_token'"):
        _ = checkpoint("{{ bos_token }}" + SWITCHES, bos_token="x").digest
    with pytest.raises(ModelError, match=r"^model\.template: Object of type object is not JSON serializable\. An arg"):
        _ = checkpoint(style=object()).digest
    with pytest.raises(ModelError, match=r"It takes none\.$"):
        _ = HF("tiny", template={"enable_thinking": True}).digest


def test_arguments_are_an_axis_of_a_grid(checkpoint: Callable[..., HF]) -> None:
    path = checkpoint().path
    data: dict[str, Any] = {
        "name": "x",
        "task": {"name": "matching", "queries": 2},
        "model": {"name": "hf", "path": path},
        "grid": {"model.template": [{}, {"enable_thinking": False}, {"enable_thinking": True, "style": "loud"}]},
    }
    cells = expand(load_config(data)).cells
    assert [cell.labels["model"] for cell in cells] == [
        "checkpoint",
        "checkpoint(enable_thinking=False)",
        "checkpoint(enable_thinking=True, style=loud)",
    ]
    assert len({cell.digest for cell in cells}) == 3
    data["grid"] = {"model.template.enable_thinking": [True, False]}
    cells = expand(load_config(data)).cells
    assert [cell.model.template for cell in cells] == [{"enable_thinking": True}, {"enable_thinking": False}]  # type: ignore[attr-defined]
    data["grid"] = {"model.template": [{"enable_thinkin": True}]}
    with pytest.raises(ModelError, match=r"model\.template: the chat template"):
        expand(load_config(data))


def test_a_value_that_the_template_refuses_is_an_error_of_the_key(checkpoint: Callable[..., HF]) -> None:
    with pytest.raises(
        ModelError, match=r"^model\.template: the chat template of .* refuses \{style: 'none'\}: Unexpected style none$"
    ):
        _ = checkpoint(style="none").digest


def test_a_variable_that_nobody_set_is_named_with_the_key(checkpoint: Callable[..., HF]) -> None:
    text = "{{ tone.upper() }}" + SWITCHES
    with pytest.raises(
        ModelError, match=r"^model\.template: the chat template of .* needs 'tone', which is not set\. Set it: `templat"
    ):
        checkpoint(text).render(prompt([1]))
    assert checkpoint(text, tone="x").render(prompt([1])).startswith("X<user>")


def test_a_plan_says_which_argument_has_no_effect(checkpoint: Callable[..., HF]) -> None:
    model = checkpoint(enable_thinking=False, style="plain", past_reasoning=True)
    assert [note.partition(" has no effect")[0] for note in model.plan_notes] == [
        "template: style: 'plain'",
        "template: past_reasoning: True",
    ]
    assert VLLM(model.path, template=model.template).plan_notes == model.plan_notes


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_templates_take_the_arguments_of_their_authors(name: str, checkpoint: Callable[..., HF]) -> None:
    hf = checkpoint()
    hf.checkpoint.processor.chat_template = published_template(name)
    assert argument_names(hf.renderer) == PUBLISHED[name]


def test_published_switches_write_the_golden_texts() -> None:
    """Goldens of an independent renderer: `g enable_thinking=False | b` is conversation b under this argument."""
    goldens = published_texts()
    image, question = {"type": "image"}, {"type": "text", "text": "Which color?"}
    user = {"role": "user", "content": [image, question]}
    red, blue = ({"role": "assistant", "content": [{"type": "text", "text": text}]} for text in ("red", "blue"))
    compared = 0
    for name, values in (
        ("qwen3_6", {"enable_thinking": False}),
        ("qwen3_8", {"reasoning_effort": "low"}),
        ("kimi_k2_5", {"thinking": False}),
        ("gemma4_31b", {"enable_thinking": True}),
        ("minimax_m3", {"thinking_mode": "disabled"}),
    ):
        ((key, value),) = values.items()
        golden = goldens[name][f"g {key}={value} | b"]
        tokens = {"gemma4_31b": {"bos_token": "<bos>"}, "minimax_m3": {"bos_token": "]~!b[", "eos_token": "[e~["}}
        text = PROCESS.render(
            published_template(name), [user, red, user, blue, user], True, {**tokens.get(name, {}), **values}
        )
        compared += text == golden
    assert compared == 5


DATED = "{{ strftime_now('%d %b %Y') }}" + SWITCHES


@pytest.mark.parametrize("own_rendering", [False, True])
def test_the_date_that_a_template_writes_is_that_of_the_run(
    own_rendering: bool, checkpoint: Callable[..., HF], monkeypatch: pytest.MonkeyPatch
) -> None:
    hf = checkpoint(DATED)
    if own_rendering:
        monkeypatch.setattr(rendering, "overrides_rendering", lambda processor: True)
        monkeypatch.setattr(prompt_encoding, "overrides_rendering", lambda processor: True)
    assert hf.render(prompt([1])).startswith(date.today().strftime("%d %b %Y"))
    hf.set_day(date(2026, 11, 30))
    assert hf.render(prompt([1])).startswith("30 Nov 2026<user>")
    ids = process_prompt(hf.renderer, prompt([1]))["input_ids"][0].tolist()
    assert hf.tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "").startswith("30Nov2026")
    vllm = VLLM(hf.path)
    vllm.set_day(date(2026, 11, 30))
    assert vllm.render(prompt([1])) == hf.render(prompt([1]))


@pytest.mark.parametrize("own_template", [True, False], ids=["template of the same shape", "published template"])
def test_the_page_on_backends_shows_the_prompt_of_its_three_keys(own_template: bool, tmp_path: Path) -> None:
    if not own_template:
        published_template("qwen3_6")
    page = (Path(__file__).parents[4] / "docs" / "backends.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```yaml\n(# without_thinking.*?)^```", page, re.DOTALL | re.MULTILINE)
    (expected,) = re.findall(r"^```text\n(<.*?)^```", page, re.DOTALL | re.MULTILINE)
    path = save_twin("qwen3_6", tmp_path / "twin", own_template=own_template)
    (tmp_path / "grid.yaml").write_text(text.replace("Qwen/Qwen3.6-27B", str(path)), encoding="utf-8")
    (cell,) = expand(load_config(tmp_path / "grid.yaml")).cells
    ((item,),) = build_contexts(Retrieval(cell.task, cell.model), prompt_specs([cell]), cell.task.queries[:1])
    written = render(item).prompt
    assert written is not None
    assert cell.model.render(written) == expected
    assert cell.model.plan_notes == ()
    tokens, default = cell.model.tokens_of_image(image(1, (1200, 1600))) or (0, 0)
    assert 512 >= tokens > 460
    assert default == 1900
    (same,) = expand(load_config(tmp_path / "grid.yaml", ["model.name=vllm"])).cells
    assert same.model.render(written) == expected
    assert same.model.count_tokens(written) == cell.model.count_tokens(written)
