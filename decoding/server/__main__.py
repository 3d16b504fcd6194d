"""`python -m decoding.server`: vLLM's API server, which answers 503 while the model loads."""

from argparse import Namespace
from typing import Any

from decoding.server.http import LOADING


def main() -> None:
    """Runs vLLM's server with the options of the command line."""
    from vllm.entrypoints.launchers.api_server import entry

    bind = entry.setup_server

    def setup_server(args: Namespace, **options: Any) -> Any:
        address, sock = bind(args, **options)
        if not args.uds and not args.ssl_certfile:  # the responder supports neither Unix sockets nor TLS
            LOADING.start(sock)
        return address, sock

    entry.setup_server = setup_server
    entry.main()


if __name__ == "__main__":
    main()
