"""Types that both kinds of clients share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Union

Payload = Union[bytes, bytearray]
Headers = Mapping[str, bytes]
#: What the daemon does when this client does not take messages fast enough.
Overflow = Literal["block", "drop-oldest", "drop-newest", "disconnect"]


@dataclass(frozen=True)
class Receipt:
    """What has become of the copies of a message."""

    #: Copies that are written to their receivers.
    delivered: int
    #: Copies that were dropped, by reason.
    dropped: dict[str, int]


def header_pairs(headers: Headers | None) -> list[tuple[str, bytes]] | None:
    return None if headers is None else list(headers.items())


def receipt(outcome: tuple[int, list[tuple[str, int]]]) -> Receipt:
    delivered, dropped = outcome
    return Receipt(delivered, dict(dropped))
