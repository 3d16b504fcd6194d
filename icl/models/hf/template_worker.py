"""A process that renders chat templates: one line of JSON in, one line of JSON out.

The chat template of a checkpoint is a program of its author. transformers runs it in a sandbox of Jinja, without access
to files and names of Python, but without limits. Therefore this process ends itself when a template takes longer than
SECONDS, and its memory is limited where the system can do that. Nothing but transformers is imported.

    in     {"template": ..., "conversation": [...], "answers": true, "values": {"bos_token": ...},
            "day": "2026-12-01"}
    out    {"text": ...} or {"error": ...} or {"limit": ...}

    in     {"template": ...}
    out    {"arguments": [...]} or {"error": ...} or {"limit": ...}
"""

from datetime import datetime
from typing import Any

from icl.limited_process import serve

SECONDS = 5
"""Time of one rendering."""

CHARACTERS = 10_000_000
"""Length of a rendered prompt."""

BYTES = 2 * 2**30
"""Address space of the process. The imports take a third of it."""


NOT_ARGUMENTS = frozenset({"messages", "add_generation_prompt", "continue_final_message", "tools", "documents"})
"""Names that a template reads and that are no settings: the conversation, how it ends, and what no prompt has."""


def render(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        if "conversation" not in request:
            return {"arguments": arguments(request["template"])}
        with_day(request["template"], request["day"])
        texts, _ = render_jinja_template(
            conversations=[request["conversation"]],
            chat_template=request["template"],
            add_generation_prompt=request["answers"],
            **request["values"],
        )
    except MemoryError:
        return {"limit": f"needs more than {BYTES / 2**30:.0f} GiB of memory"}
    except Exception as error:  # noqa: BLE001  a template is a program: its errors of any kind are answers
        kind = "" if type(error).__name__ == "TemplateError" else f"{type(error).__name__}: "  # its own message
        return {"error": f"{kind}{str(error)[:400]}"}
    if len(texts[0]) > CHARACTERS:
        return {"limit": f"writes more than {CHARACTERS:,} characters"}
    return {"text": texts[0]}


def with_day(template: str, day: str) -> Any:
    """The compiled template, which from now on, wherever it is used, writes this date (2026-12-01) as that of today."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    program = _compile_jinja_template(template)
    program.environment.globals["strftime_now"] = datetime.fromisoformat(day).strftime
    return program


def arguments(template: str) -> list[str]:
    """The names that a template reads from its arguments, special tokens included.

    Jinja also reports names that the template itself sets in a branch. They are arguments only if it asks whether they
    are set.
    """
    from jinja2 import meta, nodes
    from transformers.utils.chat_template_utils import _compile_jinja_template

    environment = _compile_jinja_template(template).environment
    tree = environment.parse(template)
    names = list(tree.find_all(nodes.Name))
    parameters = {name.name for name in names if name.ctx == "param"}
    set_here = {name.name for name in names if name.ctx == "store"}
    checks = [test.node for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined")]
    checks += [one.node for one in tree.find_all(nodes.Filter) if one.name in ("default", "d")]
    checked = {node.name for node in checks if isinstance(node, nodes.Name)}
    used = meta.find_undeclared_variables(tree) - NOT_ARGUMENTS - environment.globals.keys() - parameters
    return sorted(used - (set_here - checked))


def main() -> None:
    """Answers requests until the input ends."""
    import transformers.utils.chat_template_utils  # noqa: F401  (imported before the clock runs)

    serve(render, SECONDS, BYTES)


if __name__ == "__main__":
    main()
