"""The native half of the package. Each operation takes an event loop, and then returns a future if
it is not over at once; or None, and waits."""

from asyncio import AbstractEventLoop, Future
from collections.abc import Sequence
from os import PathLike
from typing import TypeVar, Union

from ._types import Payload

_T = TypeVar("_T")
_Result = Union[_T, Future[_T]]
_Loop = Union[AbstractEventLoop, None]
_Headers = Union[list[tuple[str, bytes]], None]

class Message:
    """A message that was received."""

    @property
    def subject(self) -> str: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def reply_subject(self) -> str | None: ...
    @property
    def headers(self) -> dict[str, bytes]: ...
    @property
    def id(self) -> int: ...
    @property
    def sender(self) -> int: ...
    @property
    def is_request(self) -> bool: ...
    @property
    def more(self) -> bool: ...

class Origin:
    """The identity of a sender."""

    @property
    def peer(self) -> int: ...
    @property
    def name(self) -> str | None: ...
    @property
    def transport(self) -> str: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def uid(self) -> int | None: ...
    @property
    def gid(self) -> int | None: ...

class Stream:
    def take(self) -> Message | None: ...
    def fill(self, event_loop: _Loop, timeout: float | None) -> _Result[bool]: ...
    def dropped(self) -> int: ...
    def close(self) -> None: ...

class Core:
    def publish(
        self,
        event_loop: _Loop,
        subject: str,
        payload: Payload,
        reply_subject: str | None,
        headers: _Headers,
    ) -> _Result[None]: ...
    def publish_many(
        self, event_loop: _Loop, subject: str, payloads: Sequence[Payload]
    ) -> _Result[None]: ...
    def publish_acked(
        self, event_loop: _Loop, subject: str, payload: Payload, headers: _Headers
    ) -> _Result[tuple[int, list[tuple[str, int]]]]: ...
    def flush(self, event_loop: _Loop) -> _Result[None]: ...
    def subscribe(
        self,
        event_loop: _Loop,
        filter: str,
        group: str | None,
        overflow: str | None,
        origin: bool,
    ) -> _Result[Stream]: ...
    def direct(self) -> Stream: ...
    def request(
        self,
        event_loop: _Loop,
        subject: str,
        payload: Payload,
        timeout: float,
        headers: _Headers,
    ) -> _Result[Message]: ...
    def request_many(
        self,
        event_loop: _Loop,
        subject: str,
        payload: Payload,
        timeout: float,
        headers: _Headers,
    ) -> _Result[Stream]: ...
    def reply(
        self,
        event_loop: _Loop,
        request: Message,
        payload: Payload,
        more: bool,
        headers: _Headers,
    ) -> _Result[None]: ...
    def ping(self, event_loop: _Loop) -> _Result[float]: ...
    def matching(self, event_loop: _Loop, subject: str) -> _Result[int]: ...
    def close(self, event_loop: _Loop) -> _Result[None]: ...
    def origin(self, sender: int) -> Origin | None: ...
    @property
    def peer(self) -> int: ...
    @property
    def max_payload(self) -> int: ...
    @property
    def is_connected(self) -> bool: ...

def connect(
    event_loop: _Loop,
    via: str | None,
    name: str | None,
    token_file: str | PathLike[str] | None,
    token_name: str | None,
    timeout: float,
    reconnect: bool,
    no_echo: bool,
) -> _Result[Core]: ...
