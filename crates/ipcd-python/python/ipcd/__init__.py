"""A client of ipcd, a daemon that relays messages between processes.

    import ipcd

    with ipcd.connect() as client:
        with client.subscribe("logs.>") as logs:
            client.send("logs.web", b"hello")
            for message in logs:
                print(message.subject, message.payload)
                break

`ipcd.aio` has the same for asyncio.
"""

from . import aio
from ._client import Client, Replies, Subscription, connect
from ._errors import (
    ConnectError,
    Disconnected,
    Error,
    InvalidMessage,
    NoResponder,
    ProtocolError,
    Refused,
    TimedOut,
    TokenError,
    Unanswered,
)
from ._ipcd import Message, Origin
from ._types import Headers, Overflow, Payload, Receipt

__all__ = [
    "Client",
    "ConnectError",
    "Disconnected",
    "Error",
    "Headers",
    "InvalidMessage",
    "Message",
    "NoResponder",
    "Origin",
    "Overflow",
    "Payload",
    "ProtocolError",
    "Receipt",
    "Refused",
    "Replies",
    "Subscription",
    "TimedOut",
    "TokenError",
    "Unanswered",
    "aio",
    "connect",
]
