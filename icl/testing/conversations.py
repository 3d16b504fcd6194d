"""Prompts as the conversations that chat templates and vLLM read."""

from typing import Any

from icl.types import Prompt


def conversation(prompt: Prompt, image_type: str = "image") -> list[dict[str, Any]]:
    """The messages of a prompt with its images.

    Args:
        prompt: The prompt.
        image_type: The type and key of images: "image" for `apply_chat_template`, "image_pil" for `LLM.chat`.
    """
    return [
        {
            "role": turn.role,
            "content": [
                {"type": "text", "text": part.text}
                if part.image is None
                else {"type": image_type, image_type: part.image.open()}
                for part in turn.parts
            ],
        }
        for turn in prompt.turns
    ]
