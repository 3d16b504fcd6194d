"""Does a server read every image of a few-shot prompt, in order, every time?"""

from pathlib import Path
from typing import Annotated

import typer


def command(
    url: Annotated[str, typer.Argument(help="base address of an OpenAI-compatible API", show_default=False)],
    model: Annotated[str, typer.Argument(help="name of the model; needed if the server has several")] = "",
    *,
    only: Annotated[str, typer.Option(help="names of checks, separated by commas")] = "",
    deep: Annotated[bool, typer.Option("--deep", help="600 requests more, for caches with short keys")] = False,
    texts: Annotated[bool, typer.Option("--texts", help="compare texts, not log-probabilities")] = False,
    key_env: Annotated[str, typer.Option(help="environment variable that holds the API key")] = "",
    json: Annotated[Path | None, typer.Option(help="file for the result", show_default=False)] = None,
    curl: Annotated[
        Path | None, typer.Option(help="folder for the requests that show each fault", show_default=False)
    ] = None,
    badge: Annotated[bool, typer.Option("--badge", help="print a line for a README")] = False,
) -> None:
    """Sends about 200 requests for one token each. No answer has to be right: it has to change with the prompt, or to
    stay. Each check is ok, RED (a fault of the server), or cannot tell (the model reacts too little).

    Exit status: 0 ok, 1 a fault, 2 no fault but a check that cannot tell, 3 no usable server.

    It runs without the toolkit as well, on a machine without torch: pipx run --spec ./icl/probe icl-probe URL
    """
    from icl.probe.command import run_command

    status = run_command(
        url, model, only=only, deep=deep, texts=texts, key_env=key_env, json=json, curl=curl, badge=badge
    )
    if status:
        raise typer.Exit(status)
