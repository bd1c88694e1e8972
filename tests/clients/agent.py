"""The agent of the Python client for the scenarios of README.md: `agent.py [aio]`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from typing import Any, TypeVar, Union

import ipcd

T = TypeVar("T")
TIMEOUT = 10.0


def encode(data: bytes) -> str:
    return data.hex() or "-"


def decode(text: str) -> bytes:
    return b"" if text == "-" else bytes.fromhex(text)


def header_of(field: str) -> tuple[str, bytes]:
    key, _, value = field.partition("=")
    return key, decode(value)


def kind(error: ipcd.Error) -> str:
    if isinstance(error, ipcd.Refused):
        return "refused:" + error.code
    kinds: list[tuple[type[ipcd.Error], str]] = [
        (ipcd.ConnectError, "connect"),
        (ipcd.TimedOut, "timeout"),
        (ipcd.Disconnected, "disconnected"),
        (ipcd.TokenError, "token"),
    ]
    return next((name for known, name in kinds if isinstance(error, known)), "invalid")


async def done(result: Union[T, Awaitable[T]]) -> T:
    """The result of either kind of client."""
    if isinstance(result, Awaitable):
        return await result
    return result


class Agent:
    """Obeys with the client that waits, or with that for asyncio."""

    def __init__(self, connect: Any) -> None:
        self.connect = connect
        self.client: Any = None
        self.streams: dict[str, Any] = {}
        self.last: dict[str, ipcd.Message] = {}

    async def obey(self, command: str, *fields: str) -> str:
        match command, fields:
            case "connect", (via, *rest):
                made = self.connect(via, timeout=TIMEOUT, reconnect="reconnect" in rest)
                self.client = await done(made)
                return str(self.client.max_payload)
            case "subscribe", (key, filter, *rest):
                made = self.client.subscribe(filter, group=rest[0] if rest else None)
                self.streams[key] = await done(made)
            case "unsubscribe", (key,):
                self.streams.pop(key).close()
            case "publish", (subject, payload, *headers):
                pairs = dict(map(header_of, headers))
                await done(self.client.publish(subject, decode(payload), headers=pairs))
            case "flush", ():
                await done(self.client.flush())
            case "receive", (key,):
                message = await done(self.streams[key].receive())
                if message is None:
                    raise ipcd.Disconnected("the stream has ended")
                self.last[key] = message
                headers = [f"{name}={encode(value)}" for name, value in message.headers.items()]
                return " ".join([message.subject, encode(message.payload), *headers])
            case "request", (subject, payload, millis):
                timeout = int(millis) / 1000
                made = self.client.request(subject, decode(payload), timeout=timeout)
                return encode((await done(made)).payload)
            case "reply", (key, payload):
                await done(self.client.reply(self.last[key], decode(payload)))
            case "close", ():
                await done(self.client.close())
            case _:
                raise SystemExit(f"{command} is no command")
        return ""


async def main() -> None:
    agent = Agent(ipcd.aio.connect if "aio" in sys.argv[1:] else ipcd.connect)
    loop = asyncio.get_running_loop()
    # Not on the loop itself, which has to serve futures meanwhile.
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            answer = "ok " + await agent.obey(*line.rstrip("\n").split(" "))
        except ipcd.Error as error:
            answer = f"error {kind(error)} {error}"
        print(answer.rstrip(), flush=True)


asyncio.run(main())
