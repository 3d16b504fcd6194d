"""The assertion of all conformance checks. Unlike `assert`, it also runs under `python -O`."""


def require(condition: bool, message: str) -> None:
    """Raises AssertionError with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)
