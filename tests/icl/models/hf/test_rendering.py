"""The output of a chat template is compared with the prompt before any forward pass."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
import torch
from tiny_models import image, prompt, turn

from icl.errors import ModelError
from icl.models.hf.conversations import merged
from icl.models.hf.model import HF
from icl.models.hf.prompt_encoding import PromptEncoder
from icl.models.hf.rendering import PromptRenderer
from icl.streams import StreamKey
from icl.types import Context, Demo, Example, Part, Prompt, Query, Turn
from prompts.composers.template import Template

ModelOf = Callable[[str], HF]


def renderer(hf: HF, template: str | None = None, **tokenizer: object) -> PromptRenderer:
    """A renderer of its own: nothing else sees the changed template."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(hf.path)
    if template is not None:
        processor.chat_template = template
    for name, value in tokenizer.items():
        setattr(processor.tokenizer, name, value)
    return PromptRenderer(processor, "tiny")


def test_neighboring_texts_are_merged_before_the_template() -> None:
    own = Turn("user", (Part("a"), Part(""), Part("b", "x"), Part(image(1)), Part("c"), Part("")))
    assert merged(own) == ["ab", None, "c"]


def test_a_prompt_is_written_by_the_checkpoints_own_template(model_of: ModelOf) -> None:
    text = model_of("idefics3").render(prompt([1, 2], "why?"))
    assert text == "<user><image>what?</turn><assistant>shape 1</turn><user><image>why?</turn><assistant>"


MARKED = (
    "{% for m in messages %}<user>{% for c in m['content'] %}{% if c['type'] == 'image' %}[<image>]\n"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
SLOT_TEXT = Part("a red square", "query.image[0]", fills_image_slot=True)


def test_a_text_in_an_image_slot_stands_between_the_marks_of_the_image(model_of: ModelOf) -> None:
    own = renderer(model_of("llava"), MARKED)
    user = Turn("user", (Part(image(1)), Part("and "), SLOT_TEXT, Part("what?")))
    assert own.text(Prompt((user,))) == "<user>[<image>]\nand [a red square]\nwhat?<assistant>"
    assert own.option_ids(Prompt((user,)), ["shape 1"]) == own.option_ids(Prompt((turn("user", "what?"),)), ["shape 1"])
    plain = Turn("user", (Part("a red square"), Part("what?")))
    assert own.text(Prompt((plain,))) == "<user>a red squarewhat?<assistant>"


def test_a_placeholder_in_the_text_of_an_image_slot_is_an_error(model_of: ModelOf) -> None:
    forged = Prompt((Turn("user", (Part("an <image>", fills_image_slot=True), Part("what?"))),))
    with pytest.raises(ModelError, match="a text of the prompt contains the placeholder itself"):
        renderer(model_of("llava"), MARKED).text(forged)


@pytest.mark.parametrize("whole", [False, True], ids=["encoded images", "processor on whole prompts"])
@pytest.mark.parametrize("with_image", [False, True])
def test_a_prompt_with_a_filled_slot_is_read_as_its_rendered_text(
    whole: bool, with_image: bool, model_of: ModelOf
) -> None:
    hf = model_of("llava")
    encoder = PromptEncoder(
        hf.renderer, hf.pixels, hf.engine.runner, None if whole else hf.engine.prompt_encoder.encoder
    )
    others = (Part(image(1)), Part("and ")) if with_image else ()
    filled = Prompt((Turn("user", (*others, SLOT_TEXT, Part("what?"))),))
    (encoded,) = encoder.read([filled])
    assert tuple(encoded.ids.tolist()) == hf.ids(filled)
    assert torch.isfinite(hf.open([filled]).logits).all()


def test_a_placeholder_in_the_data_is_an_error_with_both_counts(model_of: ModelOf) -> None:
    with pytest.raises(ModelError, match=r"2 image placeholders \(<image>\) for 1 images; a text of the prompt"):
        model_of("llava").open([prompt([1], "what is an <image>?")])


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3", "internvl"])
def test_data_with_a_placeholder_is_refused_for_every_architecture(name: str, model_of: ModelOf) -> None:
    hf = model_of(name)
    with pytest.raises(ModelError, match=r"1 image placeholders .* for 0 images"):
        hf.open([prompt([], f"say {hf.renderer.slot}")])


def test_a_template_that_leaves_images_out_is_an_error(model_of: ModelOf) -> None:
    text_only = "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}"
    with pytest.raises(ModelError, match=r"0 image placeholders .* for 1 images; the chat template omits some"):
        renderer(model_of("llava"), text_only).text(prompt([1]))


IMAGES_FIRST = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for c in m['content'] if c['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The template of LLaVA-OneVision, which puts all images of a turn first."""


def test_a_template_that_puts_images_first_renders_interleaved_images_within_the_text(model_of: ModelOf) -> None:
    """As the released code of VL-ICL does for LLaVA: `<image>` and a line break before each question."""
    own = renderer(model_of("llava"), IMAGES_FIRST)
    demos = tuple(Demo(Example(f"d{i}", (image(i),), f"{i} ? {i}", (f"{2 * i}",)), 0.5, i) for i in (1, 2))
    context = Context(Query("q", (image(3),), "3 ? 3"), demos, StreamKey())
    assert own.text(Template("vl_icl").compose(context)) == (
        "<|im_start|>user\n<image>\n1 ? 1\nAnswer: 2\n<image>\n2 ? 2\nAnswer: 4\n<image>\n3 ? 3\nAnswer:<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    first = Prompt((turn("user", image(1), image(2), "which?"),))
    assert own.text(first).startswith("<|im_start|>user\n<image>\n<image>\nwhich?<|im_end|>")
    options = own.option_ids(Template("vl_icl").compose(context), ["6", "9"])
    assert [own.tokenizer.decode(ids).strip() for ids in options] == ["6", "9"]


def test_a_template_that_moves_texts_is_an_error(model_of: ModelOf) -> None:
    last = (
        "{% for m in messages | reverse %}{% for c in m['content'] %}"
        "{{ '<image>' if c['type'] == 'image' else c['text'] }}{% endfor %}{% endfor %}"
    )
    own = renderer(model_of("llava"), last)
    with pytest.raises(ModelError, match="moves it to another position"):
        own.text(Prompt((turn("user", image(1), "a"), turn("assistant", "b"), turn("user", image(2), "c"))))


def test_a_template_that_drops_a_system_turn_is_an_error(model_of: ModelOf) -> None:
    quiet = "{% for m in messages if m['role'] != 'system' %}{{ m['content'][0]['text'] }}{% endfor %}"
    with pytest.raises(ModelError, match=r"drops the system turn, or moves it .*instruction_text"):
        renderer(model_of("llava"), quiet).text(Prompt((turn("system", "be short"), turn("user", "hi"))))


def test_a_template_that_refuses_two_turns_of_a_role_is_reported_in_a_sentence(model_of: ModelOf) -> None:
    strict = (
        "{% for m in messages %}{% if loop.index0 and messages[loop.index0 - 1]['role'] == m['role'] %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}"
        "{% endfor %}"
    )
    twice = Prompt((turn("user", "a"), turn("user", "b")))
    with pytest.raises(ModelError, match=r"does not accept these turns \(user, user\): roles must alternate"):
        renderer(model_of("llava"), strict).text(twice)


def test_a_template_that_reads_texts_only_is_no_matter_of_the_composer(model_of: ModelOf) -> None:
    texts = renderer(model_of("llava"), "{% for m in messages %}{{ m.role + m.content }}{% endfor %}")
    with pytest.raises(ModelError, match=r"the chat template reads texts only, so it cannot place images") as caught:
        texts.text(Prompt((Turn("user", (Part("Which color?"),)),)))
    assert "composer" not in str(caught.value)


@pytest.mark.parametrize("written", [True, False])
def test_the_start_token_occurs_once_whether_template_or_tokenizer_adds_it(written: bool, model_of: ModelOf) -> None:
    from tokenizers.processors import TemplateProcessing

    template = ("<pad>" if written else "") + tiny_models.TEMPLATE.replace("SLOT", "<image>")
    own = renderer(model_of("llava"), template, bos_token="<pad>")
    start = own.tokenizer.bos_token_id
    own.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A", special_tokens=[("<pad>", start)]
    )
    ids = list(own.ids(own.text(prompt([], "hi"))))
    assert ids.count(start) == 1
    assert ids[0] == start
    theirs = own.processor.apply_chat_template(
        tiny_models.conversations([prompt([], "hi")])[0], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    assert theirs["input_ids"][0] == ids


def test_option_ids_come_from_tokenizing_prompt_and_option_together(model_of: ModelOf) -> None:
    hf = model_of("qwen2_5_vl")
    one = prompt([1, 2], "which?")
    options = ["cat", "a red dog", "B"]
    for option, ids in zip(options, hf.option_ids(one, options), strict=True):
        text = hf.render(one)
        assert hf.renderer.ids(text) + tuple(ids) == hf.renderer.ids(text + option)
        assert hf.text(ids) == option


def test_an_option_gets_the_white_space_that_the_template_puts_before_an_answer(model_of: ModelOf) -> None:
    spaced = (
        "{% for m in messages %}{{ m['role'] | upper }}: {% for c in m['content'] %}{{ c['text'] }}{% endfor %} "
        "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    own = renderer(model_of("llava"), spaced)
    one = prompt([], "cat or dog?")
    assert own.text(one) == "USER: cat or dog? ASSISTANT:"
    assert own.option_ids(one, ["cat"]) == [list(own.ids(" cat"))]


def test_an_option_that_merges_with_the_prompt_is_reported(model_of: ModelOf, tmp_path: Path) -> None:
    own = renderer(
        model_of("llava"), "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}"
    )
    own.tokenizer.add_tokens(["xyz"])
    with pytest.raises(ModelError, match="the option 'z' merges with the end of the prompt"):
        own.option_ids(prompt([], "say xy"), ["z"])
    assert own.option_ids(prompt([], "say xy"), ["w"]) == [list(own.ids("w"))]


def test_text_has_no_special_tokens(model_of: ModelOf) -> None:
    hf = model_of("idefics3")
    assert hf.text(hf.renderer.ids(" a cat</turn><image>")) == "a cat"


def test_a_prompt_that_is_counted_and_read_is_tokenized_once(
    model_of: ModelOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf = model_of("idefics3")
    texts, own = list[str](), hf.renderer._tokenized

    def noted(text: str) -> tuple[int, ...]:
        texts.append(text)
        return own(text)

    monkeypatch.setattr(hf.renderer, "_tokenized", noted)
    one = prompt([1, 2], "how often?")
    assert hf.count_tokens(one) == len(hf.ids(prompt([1, 2], "how often?"))) == len(own(texts[0]))
    assert len(texts) == 1
    assert hf.ids(prompt([1], "how often?")) != hf.ids(one)
