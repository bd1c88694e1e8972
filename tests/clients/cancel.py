"""Waits of the Python clients that end early: cancelled tasks, signals, a forked child."""

import asyncio
import os
import signal

import ipcd

COUNT = 2000


async def cancelled_waits() -> None:
    """Every message comes, and in order, however many waits are cancelled."""
    async with await ipcd.aio.connect() as client, await ipcd.aio.connect() as other:
        stream = await client.subscribe("x")

        async def publish() -> None:
            for number in range(COUNT):
                await other.publish("x", str(number).encode())
                if number % 10 == 0:
                    await asyncio.sleep(0)

        publishing = asyncio.create_task(publish())
        expected, cancelled = 0, 0
        while expected < COUNT:
            wait = asyncio.create_task(stream.receive())
            await asyncio.sleep(0)
            wait.cancel()
            try:
                message = await wait
            except asyncio.CancelledError:
                cancelled += 1
                continue
            assert message is not None and message.payload == str(expected).encode()
            expected += 1
        await publishing
        assert cancelled > 0, "no wait was cancelled"
        # Calls that are given up leave nothing.
        for call in (client.ping, client.flush, lambda: client.subscribe("y")):
            task = asyncio.create_task(call())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await client.send("x", b"last")
        message = await stream.receive()
        assert message is not None and message.payload == b"last"


class Interrupted(Exception):
    pass


def interrupted_wait() -> None:
    """A handler of a signal may end a wait, and the client stays usable."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    signal.signal(signal.SIGALRM, interrupt)
    with ipcd.connect() as client, client.subscribe("x") as stream:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            next(stream)
            raise SystemExit("no message was sent")
        except Interrupted:
            pass
        client.send("x", b"after")
        assert next(stream).payload == b"after"


def forked_child() -> None:
    """A child is told to connect itself, and can."""
    with ipcd.connect() as client:
        child = os.fork()
        if child == 0:
            try:
                client.ping()
            except RuntimeError as error:
                with ipcd.connect() as own:
                    own.ping()
                os._exit(0 if "fork" in str(error) else 1)
            os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        client.ping()


asyncio.run(cancelled_waits())
interrupted_wait()
forked_child()
print("done")
