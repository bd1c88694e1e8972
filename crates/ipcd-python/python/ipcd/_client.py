"""The client that waits."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Iterable, Iterator
from os import PathLike
from types import TracebackType
from typing import TypeVar, cast

from . import _ipcd
from ._base import BaseClient, BaseStream
from ._errors import Error, TimedOut
from ._ipcd import Message
from ._types import Headers, Overflow, Payload, Receipt, header_pairs, receipt

_T = TypeVar("_T")


def _done(result: object, _type: type[_T] | None = None) -> _T:
    """Without an event loop, every operation is over when it returns."""
    return cast(_T, result)


class Stream(BaseStream):
    """Messages, as an iterator that waits. As a context manager it ends with its block."""

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        message = self._stream.take()
        while message is None:
            if not self._stream.fill(None, None):
                raise StopIteration
            message = self._stream.take()
        return message

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message; None when none comes in time, or at the end of the stream."""
        message = self._stream.take()
        if message is None:
            try:
                self._stream.fill(None, timeout)
            except TimedOut:
                return None
            message = self._stream.take()
        return message

    def close(self) -> None:
        """Ends the stream, and forgets messages that were not taken."""
        self._stream.close()

    def __enter__(self: _S) -> _S:
        return self

    def __exit__(
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
    """A connection, for any number of threads. As a context manager it is closed with its block."""

    def publish(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        reply_subject: str | None = None,
        headers: Headers | None = None,
    ) -> None:
        """Publishes a message. It leaves at once; `flush` waits until the daemon has accepted it,
        and tells of a refusal."""
        self._core.publish(None, subject, payload, reply_subject, header_pairs(headers))

    def publish_many(self, subject: str, payloads: Iterable[Payload]) -> None:
        """Publishes a message for each payload: several times faster than one by one."""
        self._core.publish_many(None, subject, list(payloads))

    def flush(self) -> None:
        """Waits until the daemon has accepted everything that was published."""
        self._core.flush(None)

    def send(self, subject: str, payload: Payload = b"", *, headers: Headers | None = None) -> None:
        """Publishes a message, and waits until the daemon has accepted it."""
        self.publish(subject, payload, headers=headers)
        self.flush()

    def publish_acked(
        self, subject: str, payload: Payload = b"", *, headers: Headers | None = None
    ) -> Receipt:
        """Publishes a message, and waits until every copy is delivered or dropped."""
        outcome = self._core.publish_acked(None, subject, payload, header_pairs(headers))
        return receipt(_done(outcome))

    def subscribe(
        self,
        filter: str,
        *,
        group: str | None = None,
        overflow: Overflow | None = None,
        origin: bool = False,
    ) -> Subscription:
        """Subscribes. Every matching message that is published after the return will come."""
        return Subscription(_done(self._core.subscribe(None, filter, group, overflow, origin)))

    def direct_messages(self) -> Subscription:
        """Messages to this peer's own address, `@ID`."""
        return Subscription(self._core.direct())

    def request(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        timeout: float = 5.0,
        headers: Headers | None = None,
    ) -> Message:
        """Sends a request, and waits for the first reply."""
        return _done(self._core.request(None, subject, payload, timeout, header_pairs(headers)))

    def request_many(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        timeout: float = 5.0,
        headers: Headers | None = None,
    ) -> Replies:
        """Sends a request, and returns all replies that come within this time."""
        pairs = header_pairs(headers)
        return Replies(_done(self._core.request_many(None, subject, payload, timeout, pairs)))

    def reply(
        self,
        request: Message,
        payload: Payload = b"",
        *,
        more: bool = False,
        headers: Headers | None = None,
    ) -> None:
        """Replies to a request. With `more`, another reply to it follows."""
        self._core.reply(None, request, payload, more, header_pairs(headers))

    def ping(self) -> float:
        """The round trip to the daemon, in seconds."""
        return _done(self._core.ping(None))

    def matching(self, subject: str) -> int:
        """The number of subscriptions that match a subject."""
        return _done(self._core.matching(None, subject))

    def close(self) -> None:
        """Waits until the daemon has accepted everything, says goodbye, and ends all streams."""
        self._core.close(None)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except Error:
            # The error of the block says more.
            if error is None:
                raise


def connect(
    via: str | None = None,
    *,
    name: str | None = None,
    token_file: str | PathLike[str] | None = None,
    token_name: str | None = None,
    timeout: float = 5.0,
    reconnect: bool = False,
    no_echo: bool = False,
) -> Client:
    """Connects to a daemon.

    `via` is an endpoint, such as `tcp://host:7117`, or a transport, such as `tcp`. Without it, the
    daemon is the one that `ipcctl` finds. `timeout` bounds every wait for the daemon, in seconds.
    With `reconnect`, a lost connection is made again, with its subscriptions.
    """
    core = _ipcd.connect(
        None, via, name, token_file, token_name, timeout, reconnect, no_echo
    )
    client = Client(_done(core))
    _open_clients.add(client)
    return client


_open_clients: weakref.WeakSet[Client] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Messages of a program that ends without `close` are written all the same."""
    for client in list(_open_clients):
        try:
            client.close()
        except (Error, RuntimeError):
            pass
