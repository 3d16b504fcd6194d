"""What all conformance checks share: the assertion, and a class in place of a component.

Unlike `assert`, `require` also runs under `python -O`.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

Check = TypeVar("Check", bound=Callable[..., Any])


def require(condition: bool, message: str) -> None:
    """Raises AssertionError with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def accepts_class(check: Check) -> Check:
    """Decorator of a check: a class is checked with its default parameters.

    Raises:
        AssertionError: The class has parameters without a default.
    """

    @wraps(check)
    def checked(*arguments: Any, **options: Any) -> Any:
        if arguments and isinstance(arguments[0], type):
            arguments = (_make(arguments[0]), *arguments[1:])
        return check(*arguments, **options)

    return cast("Check", checked)


def _make(cls: type[Any]) -> Any:
    try:
        return cls()
    except TypeError as error:
        name = cls.__name__
        raise AssertionError(f"{name} cannot be made without parameters ({error}). Pass {name}(...).") from error
