"""Stage 3: tower, connector and decoder become one Idefics3 checkpoint with tokenizer, processor and chat template."""

from pathlib import Path

import torch
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessor, Idefics3Processor

from lab.tiny import vocabulary
from lab.tiny.decoder import Decoder
from lab.tiny.tower import Tower

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<a>{% else %}<q>{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}<end>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


def config_of(tower: Tower, decoder: Decoder) -> Idefics3Config:
    """The configuration of the assembled class."""
    t, d = tower.shape, decoder.shape
    text = {
        "model_type": "llama",
        "vocab_size": d.vocabulary,
        "hidden_size": d.width,
        "intermediate_size": d.hidden,
        "num_hidden_layers": d.layers,
        "num_attention_heads": d.heads,
        "num_key_value_heads": d.heads,
        "head_dim": d.width // d.heads,
        "max_position_embeddings": d.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": d.theta,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "pad_token_id": vocabulary.PAD,
        "bos_token_id": None,
        "eos_token_id": vocabulary.END,
    }
    return Idefics3Config(
        vision_config=t.settings,
        text_config=text,
        scale_factor=t.fold,
        image_token_id=vocabulary.IMAGE,
        tie_word_embeddings=False,
        pad_token_id=vocabulary.PAD,
        eos_token_id=vocabulary.END,
    )


def assemble(tower: Tower, decoder: Decoder, out: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the checkpoint folder. Raises KeyError if a weight of the class has no counterpart."""
    model = Idefics3ForConditionalGeneration(config_of(tower, decoder)).eval()
    state = {f"model.text_model.{k}": v for k, v in decoder.lm.state_dict().items()} | {
        "lm_head.weight": decoder.lm_head.weight.detach()
    }
    for name, value in tower.state_dict().items():
        if name == "proj.weight":
            state["model.connector.modality_projection.proj.weight"] = decoder.mix.weight.detach() @ value
        elif name.startswith(("patch_embedding", "position_embedding")):
            state[f"model.vision_model.embeddings.{name}"] = value
        else:
            state[f"model.vision_model.{'encoder.' if name.startswith('layers') else ''}{name}"] = value
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or any("position_ids" not in name for name in missing):
        raise KeyError(f"weights do not match the class: missing {missing}, unexpected {unexpected}")
    generation = model.generation_config
    generation.eos_token_id, generation.pad_token_id, generation.bos_token_id = vocabulary.END, vocabulary.PAD, None
    generation.max_new_tokens = 32
    model.to(dtype).save_pretrained(out)
    side = {"longest_edge": tower.shape.side}
    images = Idefics3ImageProcessor(
        size=side, max_image_size=side, do_image_splitting=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    words = vocabulary.tokenizer(decoder.shape.context)
    Idefics3Processor(
        images, words, image_seq_len=(tower.shape.grid // tower.shape.fold) ** 2, chat_template=TEMPLATE
    ).save_pretrained(out)
