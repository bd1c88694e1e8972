"""What both kinds of clients have in common: everything that never waits."""

from __future__ import annotations

from . import _ipcd


class BaseClient:
    """A connection."""

    def __init__(self, core: _ipcd.Core) -> None:
        self._core = core

    @property
    def peer(self) -> int:
        """This peer's id. Another connection has another one."""
        return self._core.peer

    @property
    def max_payload(self) -> int:
        """Bytes of the largest payload that the daemon accepts."""
        return self._core.max_payload

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open, as far as is known."""
        return self._core.is_connected

    def origin(self, sender: int) -> _ipcd.Origin | None:
        """The identity of a sender, if a subscription asks for it (`origin=True`)."""
        return self._core.origin(sender)


class BaseStream:
    """A stream of messages."""

    def __init__(self, stream: _ipcd.Stream) -> None:
        self._stream = stream

    @property
    def dropped(self) -> int:
        """Messages that the daemon has dropped because this client did not take them fast enough,
        as far as the stream has come."""
        return self._stream.dropped()
