"""What the native half and the asyncio client share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar, cast

_T = TypeVar("_T")


def settle(future: asyncio.Future[Any], value: object, error: BaseException | None) -> None:
    """Ends a future in its event loop, unless its task has given it up."""
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


async def result_of(outcome: _T | Awaitable[_T]) -> _T:
    """The result of an operation that may be over already."""
    if asyncio.isfuture(outcome):
        return cast(_T, await outcome)
    return cast(_T, outcome)
