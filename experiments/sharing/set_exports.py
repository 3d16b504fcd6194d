"""A set of demonstrations for other programs: chat messages of any API, and the state of a DSPy program."""

import json
from typing import Any

from experiments.contexts.contexts import arrange
from experiments.running.optimize import Optimized
from icl import DataError, RetrievedExample, spans
from icl.models.chat_messages import data_url, messages

MARKS = ("<<CUSTOM-TYPE-START-IDENTIFIER>>", "<<CUSTOM-TYPE-END-IDENTIFIER>>")
"""What DSPy writes around the content of an image."""


def chat_messages(result: Optimized) -> list[dict[str, Any]]:
    """The demonstrations as the study's composer writes them, before a query. The query's own message follows.

    A composer that writes everything into one turn ends with a message to which the query's content is added.
    """
    prompt = result.cell.composer.compose(_context(result))
    return messages(prompt.map(lambda part: None if spans.is_query(part.name) else part))


def dspy_state(result: Optimized) -> dict[str, Any]:
    """The state of `dspy.Predict("images: list[dspy.Image], question -> answer")`, for its method `load`.

    Images are strings, as DSPy stores them: its adapters turn what stands between the two marks into message content.

    Raises:
        DataError: A text has a mark, and could so add content of its own to the messages.
    """
    examples = [demo.example for demo in _context(result).demos]
    for example in examples:
        if mark := next((mark for mark in MARKS if mark in example.question + example.answer), None):
            raise DataError(
                f"demonstration '{example.id}': its text contains '{mark}', which DSPy reads as the border of an "
                "image. Remove it from the data, or the demonstration from the pool."
            )
    demos = [
        {
            "images": [
                json.dumps([{"type": "image_url", "image_url": {"url": data_url(image)}}]).join(MARKS)
                for image in example.images
            ],
            "question": example.question,
            "answer": example.answer,
        }
        for example in examples
    ]
    names = ("images", "question", "answer")
    task = "Given the fields `images`, `question`, produce the fields `answer`."
    instruction = result.setting.instruction(result.choice.demos)
    return {
        "traces": [],
        "train": [],
        "demos": demos,
        "signature": {
            "instructions": instruction or task,
            "fields": [{"prefix": f"{name.title()}:", "description": f"${{{name}}}"} for name in names],
        },
        "lm": None,
        "metadata": {"dependency_versions": {}},
    }


def _context(result: Optimized) -> Any:
    """The context of the first held-out query with the set."""
    setting, ranking = result.setting, [RetrievedExample(name) for name in result.choice.demos]
    cell = setting.cell
    return arrange(setting.test[0], ranking, setting.pool, cell.seed, order=cell.order, transforms=cell.transforms)
