"""The client for asyncio.

    import asyncio
    import ipcd.aio

    async def main() -> None:
        async with await ipcd.aio.connect() as client:
            async with await client.subscribe("logs.>") as logs:
                await client.send("logs.web", b"hello")
                async for message in logs:
                    print(message.subject, message.payload)
                    break

    asyncio.run(main())

Every wait can be cancelled, as `asyncio.timeout` does: no message is lost, and the client stays
usable.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from os import PathLike
from types import TracebackType
from typing import TypeVar

from . import _ipcd
from ._aio import result_of
from ._base import BaseClient, BaseStream
from ._errors import Error
from ._ipcd import Message
from ._types import Headers, Overflow, Payload, Receipt, header_pairs, receipt

__all__ = ["Client", "Replies", "Subscription", "connect"]


class Stream(BaseStream):
    """Messages, as an asynchronous iterator. As a context manager it ends with its block."""

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def receive(self) -> Message | None:
        """The next message; None at the end of the stream."""
        message = self._stream.take()
        while message is None:
            loop = asyncio.get_running_loop()
            if not await result_of(self._stream.fill(loop, None)):
                return None
            message = self._stream.take()
        return message

    def close(self) -> None:
        """Ends the stream, and forgets messages that were not taken."""
        self._stream.close()

    async def __aenter__(self: _S) -> _S:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


_S = TypeVar("_S", bound=Stream)


class Subscription(Stream):
    """The messages of a subscription."""


class Replies(Stream):
    """The replies to a request. The end of its time is an error."""


class Client(BaseClient):
    """A connection, for any number of tasks. As a context manager it is closed with its block."""

    async def publish(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        reply_subject: str | None = None,
        headers: Headers | None = None,
    ) -> None:
        """Publishes a message. It leaves at once; `flush` waits until the daemon has accepted it,
        and tells of a refusal."""
        loop = asyncio.get_running_loop()
        pairs = header_pairs(headers)
        await result_of(self._core.publish(loop, subject, payload, reply_subject, pairs))

    async def publish_many(self, subject: str, payloads: Iterable[Payload]) -> None:
        """Publishes a message for each payload: several times faster than one by one."""
        loop = asyncio.get_running_loop()
        await result_of(self._core.publish_many(loop, subject, list(payloads)))

    async def flush(self) -> None:
        """Waits until the daemon has accepted everything that was published."""
        await result_of(self._core.flush(asyncio.get_running_loop()))

    async def send(
        self, subject: str, payload: Payload = b"", *, headers: Headers | None = None
    ) -> None:
        """Publishes a message, and waits until the daemon has accepted it."""
        await self.publish(subject, payload, headers=headers)
        await self.flush()

    async def publish_acked(
        self, subject: str, payload: Payload = b"", *, headers: Headers | None = None
    ) -> Receipt:
        """Publishes a message, and waits until every copy is delivered or dropped."""
        loop = asyncio.get_running_loop()
        pairs = header_pairs(headers)
        return receipt(await result_of(self._core.publish_acked(loop, subject, payload, pairs)))

    async def subscribe(
        self,
        filter: str,
        *,
        group: str | None = None,
        overflow: Overflow | None = None,
        origin: bool = False,
    ) -> Subscription:
        """Subscribes. Every matching message that is published after the return will come."""
        loop = asyncio.get_running_loop()
        made = self._core.subscribe(loop, filter, group, overflow, origin)
        return Subscription(await result_of(made))

    def direct_messages(self) -> Subscription:
        """Messages to this peer's own address, `@ID`."""
        return Subscription(self._core.direct())

    async def request(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        timeout: float = 5.0,
        headers: Headers | None = None,
    ) -> Message:
        """Sends a request, and waits for the first reply."""
        loop = asyncio.get_running_loop()
        pairs = header_pairs(headers)
        return await result_of(self._core.request(loop, subject, payload, timeout, pairs))

    async def request_many(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        timeout: float = 5.0,
        headers: Headers | None = None,
    ) -> Replies:
        """Sends a request, and returns all replies that come within this time."""
        loop = asyncio.get_running_loop()
        pairs = header_pairs(headers)
        made = self._core.request_many(loop, subject, payload, timeout, pairs)
        return Replies(await result_of(made))

    async def reply(
        self,
        request: Message,
        payload: Payload = b"",
        *,
        more: bool = False,
        headers: Headers | None = None,
    ) -> None:
        """Replies to a request. With `more`, another reply to it follows."""
        loop = asyncio.get_running_loop()
        pairs = header_pairs(headers)
        await result_of(self._core.reply(loop, request, payload, more, pairs))

    async def ping(self) -> float:
        """The round trip to the daemon, in seconds."""
        return await result_of(self._core.ping(asyncio.get_running_loop()))

    async def matching(self, subject: str) -> int:
        """The number of subscriptions that match a subject."""
        return await result_of(self._core.matching(asyncio.get_running_loop(), subject))

    async def close(self) -> None:
        """Waits until the daemon has accepted everything, says goodbye, and ends all streams."""
        await result_of(self._core.close(asyncio.get_running_loop()))

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        except Error:
            # The error of the block says more.
            if error is None:
                raise


async def connect(
    via: str | None = None,
    *,
    name: str | None = None,
    token_file: str | PathLike[str] | None = None,
    token_name: str | None = None,
    timeout: float = 5.0,
    reconnect: bool = False,
    no_echo: bool = False,
) -> Client:
    """Connects to a daemon, as `ipcd.connect` does."""
    loop = asyncio.get_running_loop()
    core = _ipcd.connect(
        loop, via, name, token_file, token_name, timeout, reconnect, no_echo
    )
    return Client(await result_of(core))
