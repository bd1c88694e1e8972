"""Exceptions. Their texts carry the daemon's reason."""


class Error(Exception):
    """The base of all errors of the package."""


class ConnectError(Error, ConnectionError):
    """The connection could not be made."""


class Disconnected(Error, ConnectionError):
    """The connection was lost or closed. Unconfirmed messages may not have been accepted."""


class Refused(Error):
    """The daemon refused, or ended the session."""

    #: The reason in one word, such as `Denied` or `NameTaken`.
    code: str = ""


class NoResponder(Refused):
    """No peer subscribes to the subject of the request."""


class Unanswered(Refused):
    """Every peer that had the request has gone."""


class TimedOut(Error, TimeoutError):
    """The awaited answer did not come in time."""


class InvalidMessage(Error, ValueError):
    """The subject, filter, headers or payload are not valid, or the message is no request."""


class TokenError(Error, PermissionError):
    """The daemon asks for a token, and no usable one is there."""


class ProtocolError(Error):
    """The other side does not speak the protocol."""
