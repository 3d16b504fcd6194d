"""Token ids of a twin in vLLM: those of vLLM's own processor are those of the backend `hf`. No engine is started.

vLLM's processor needs neither weights nor a cache. So this also answers for models that vLLM does not run here.
"""

from pathlib import Path
from types import SimpleNamespace

from icl.errors import ICLError
from icl.models.hf.text_processor import is_plain_text
from icl.models.vllm.engine_io import InputBuilder
from icl.models.vllm.model import VLLM
from lab.architectures import inputs
from lab.architectures.engines import first_line
from lab.architectures.verdicts import Verdict


def input_builder(folder: Path) -> InputBuilder:
    """The converter of prompts to vLLM's inputs, as in an engine. Raises what vLLM raises for the checkpoint."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.renderers import renderer_from_config

    model = VLLM(str(folder), max_images=4)
    config = EngineArgs(model.weights(), **model.arguments()).create_engine_config()
    return InputBuilder(
        model.hf, SimpleNamespace(renderer=renderer_from_config(config), model_config=config.model_config)
    )


def check_ids(folder: Path) -> Verdict:
    """Compares prompts with two, one and no demonstrations, or with none for a base model, which has no template."""
    try:
        builder, made = input_builder(folder), inputs.prompts()
        chosen = (
            (made[1],) if is_plain_text(builder.hf.checkpoint.processor.chat_template) else (made[0], made[1], made[3])
        )
        counts = [len(builder.of(prompt)["prompt_token_ids"]) for prompt in chosen]
    except ICLError as error:
        return Verdict("no", str(error).replace(str(folder), folder.name))
    except Exception as error:  # noqa: BLE001
        return Verdict("no", first_line(error))
    return Verdict("yes", f"{', '.join(map(str, counts))} tokens")
