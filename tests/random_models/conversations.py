"""Prompts as the conversations that chat templates and vLLM read."""

from typing import Any

from icl.types import Prompt


def conversation(prompt: Prompt, image_type: str = "image", *, with_pixels: bool = True) -> list[dict[str, Any]]:
    """The messages of a prompt.

    Args:
        prompt: The prompt.
        image_type: The type and key of images: "image" for `apply_chat_template`, "image_pil" for `LLM.chat`.
        with_pixels: Whether messages contain the images. Without them they have the places of images alone.
    """
    return [
        {
            "role": turn.role,
            "content": [
                {"type": "text", "text": part.text}
                if part.image is None
                else {"type": image_type} | ({image_type: part.image.open()} if with_pixels else {})
                for part in turn.parts
            ],
        }
        for turn in prompt.turns
    ]
