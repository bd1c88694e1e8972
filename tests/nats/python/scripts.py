#!/usr/bin/env python3
"""What nats-py sees of the server. `scripts.py [PATTERN]` runs the tests whose names contain PATTERN."""

import asyncio
import logging
import os
import sys
import traceback

import nats
from nats.errors import (
    MaxPayloadError, NoRespondersError, SlowConsumerError,
)
from nats.js.errors import NotFoundError, ServiceUnavailableError

from servers import PATIENCE_S, Server

CROWD = 1000
# It logs each lost connection; the tests say themselves what is wrong.
logging.getLogger("nats").setLevel(logging.CRITICAL)
TESTS = []


def test(options="default"):
    def register(function):
        TESTS.append((function.__name__, options, function))
        return function
    return register


async def connect(server, **options):
    options.setdefault("reconnect_time_wait", 0.1)
    options.setdefault("max_reconnect_attempts", -1)
    return await nats.connect(server.url, connect_timeout=10, **options)


async def bodies(subscription, count):
    return [(await subscription.next_msg(PATIENCE_S)).data for _ in range(count)]


async def until(_what, is_so):
    """Waits; the traceback of a failure shows what for."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.01)




@test()
async def publish_and_subscribe(server):
    sender, receiver = await connect(server), await connect(server)
    subscription = await receiver.subscribe("a.b")
    await receiver.flush()
    sent = [b"hello", b"", b"\r\n", b"PING\r\n", bytes(range(256)), b"x" * 100_000]
    for body in sent:
        await sender.publish("a.b", body)
    assert await bodies(subscription, len(sent)) == sent
    await sender.publish("a.b", b"asks", reply="answers.here")
    message = await subscription.next_msg(PATIENCE_S)
    assert (message.subject, message.reply) == ("a.b", "answers.here")


@test()
async def order_of_ten_thousand(server):
    sender, receiver = await connect(server), await connect(server)
    subscription = await receiver.subscribe("numbers")
    await receiver.flush()
    for number in range(10_000):
        await sender.publish("numbers", b"%d" % number)
    assert await bodies(subscription, 10_000) == [b"%d" % number for number in range(10_000)]


@test()
async def wildcards(server):
    client = await connect(server)
    wanted = {"a.*": {"a.b", "a.c"}, "a.>": {"a.b", "a.c", "a.b.c"}, "*.b": {"a.b", "b.b"}, "a.b": {"a.b"},
              ">": {"a", "a.b", "a.c", "a.b.c", "b.b"}, "*": {"a"}, "*.*.*": {"a.b.c"}, "a.*.c": {"a.b.c"}}
    subscriptions = {filter: await client.subscribe(filter) for filter in wanted}
    for subject in ["a", "a.b", "a.c", "a.b.c", "b.b"]:
        await client.publish(subject, subject.encode())
    await client.flush()
    for filter, subjects in wanted.items():
        subscription = subscriptions[filter]
        heard = {(await subscription.next_msg(PATIENCE_S)).subject for _ in subjects}
        assert heard == subjects and subscription.pending_msgs == 0, (filter, heard)


@test()
async def queue_groups(server):
    sender = await connect(server)
    members = [await connect(server) for _ in range(3)]
    first = [await member.subscribe("work", queue="first") for member in members]
    second = [await member.subscribe("work", queue="second") for member in members[:2]]
    alone = await members[0].subscribe("work")
    for member in members:
        await member.flush()
    for number in range(300):
        await sender.publish("work", b"%d" % number)
    await sender.flush()
    everything = sorted(b"%d" % number for number in range(300))
    for group in [first, second, [alone]]:
        await until("a group has all", lambda: sum(each.pending_msgs for each in group) >= 300)
        counts = [each.pending_msgs for each in group]
        assert all(counts), counts
        heard = [body for each, count in zip(group, counts) for body in await bodies(each, count)]
        assert sorted(heard) == everything


@test()
async def a_group_of_wildcards(server):
    sender, receiver = await connect(server), await connect(server)
    members = [await receiver.subscribe("jobs.*", queue="q") for _ in range(2)]
    await receiver.flush()
    for number in range(100):
        await sender.publish(f"jobs.{number}", b"")
    await sender.flush()
    await until("the group has all", lambda: sum(member.pending_msgs for member in members) == 100)


async def answer(message):
    await message.respond(message.data.upper())


@test()
async def requests(server):
    client, responder = await connect(server), await connect(server)
    await responder.subscribe("shout", cb=answer)
    await responder.flush()
    for old_style in [False, True]:
        reply = await client.request("shout", b"hello", timeout=PATIENCE_S, old_style=old_style)
        assert reply.data == b"HELLO"
    asked = [client.request("shout", b"n%d" % n, timeout=PATIENCE_S) for n in range(500)]
    assert [reply.data for reply in await asyncio.gather(*asked)] == [b"N%d" % n for n in range(500)]


@test()
async def requests_to_a_group(server):
    client, responder = await connect(server), await connect(server)
    for _ in range(3):
        await responder.subscribe("shout", queue="q", cb=answer)
    await responder.flush()
    asked = [client.request("shout", b"n%d" % n, timeout=PATIENCE_S) for n in range(200)]
    assert [reply.data for reply in await asyncio.gather(*asked)] == [b"N%d" % n for n in range(200)]


@test()
async def several_answers(server):
    client, responder = await connect(server), await connect(server)
    for _ in range(3):
        await responder.subscribe("shout", cb=answer)
    await responder.flush()
    inbox = client.new_inbox()
    replies = await client.subscribe(inbox)
    await client.publish("shout", b"x", reply=inbox)
    assert await bodies(replies, 3) == [b"X"] * 3


@test()
async def no_responders(server):
    client = await connect(server)
    for old_style in [False, True]:
        try:
            await client.request("nobody.there", b"", timeout=PATIENCE_S, old_style=old_style)
        except NoRespondersError:
            continue
        raise AssertionError(f"a request without a responder, {old_style=}")
    # One that has unsubscribed is none.
    subscription = await client.subscribe("nobody.there", cb=answer)
    assert (await client.request("nobody.there", b"x", timeout=PATIENCE_S)).data == b"X"
    await subscription.unsubscribe()
    try:
        await client.request("nobody.there", b"x", timeout=PATIENCE_S)
    except NoRespondersError:
        return
    raise AssertionError("a responder that has unsubscribed is asked")


@test()
async def headers(server):
    sender, receiver = await connect(server), await connect(server)
    subscription = await receiver.subscribe("a")
    await receiver.flush()
    for headers in [{"K": "v"}, {"Key": "v w", "Other": "x:y", "empty": ""}, {"long": "v" * 10_000},
                    {f"k{n}": f"v{n}" for n in range(100)}]:
        await sender.publish("a", b"body", headers=headers)
        message = await subscription.next_msg(PATIENCE_S)
        assert (message.headers, message.data) == (headers, b"body")
    await sender.publish("a", b"", headers={"only": "this"})
    assert (await subscription.next_msg(PATIENCE_S)).headers == {"only": "this"}
    await sender.publish("a", b"none")
    assert (await subscription.next_msg(PATIENCE_S)).headers is None


@test()
async def headers_of_requests(server):
    client, responder = await connect(server), await connect(server)

    async def echo(message):
        await client_publish(message)

    async def client_publish(message):
        await responder.publish(message.reply, b"", headers={"back": message.headers["there"]})

    await responder.subscribe("a", cb=echo)
    await responder.flush()
    reply = await client.request("a", b"", timeout=PATIENCE_S, headers={"there": "x"})
    assert reply.headers == {"back": "x"}


@test()
async def unsubscribe_after_so_many(server):
    sender, receiver = await connect(server), await connect(server)
    heard = []

    async def note(message):
        heard.append(message.data)

    subscription = await receiver.subscribe("a", cb=note)
    await subscription.unsubscribe(limit=3)
    second = await receiver.subscribe("a")
    await receiver.flush()
    for number in range(5):
        await sender.publish("a", b"%d" % number)
    await bodies(second, 5)
    assert heard == [b"0", b"1", b"2"]
    # The server has forgotten the first one: the bytes that come are of the second one only.
    before = receiver.stats["in_msgs"]
    await sender.publish("a", b"x")
    await bodies(second, 1)
    assert receiver.stats["in_msgs"] == before + 1


@test()
async def unsubscribe(server):
    sender, receiver = await connect(server), await connect(server)
    first, second = await receiver.subscribe("a"), await receiver.subscribe("a")
    await first.unsubscribe()
    await receiver.flush()
    before = receiver.stats["in_msgs"]
    await sender.publish("a", b"x")
    await bodies(second, 1)
    assert receiver.stats["in_msgs"] == before + 1


async def drained(server, drain):
    """Everything that came before the end of a drain is heard."""
    sender, receiver = await connect(server), await connect(server)
    heard = []

    async def note(message):
        heard.append(message.data)

    subscription = await receiver.subscribe("a", cb=note)
    await receiver.flush()
    for number in range(1000):
        await sender.publish("a", b"%d" % number)
    # A flush of nats-py may overtake what was published before it.
    await until("something is on its way", lambda: receiver.stats["in_msgs"] > 0)
    await drain(receiver, subscription)
    assert heard == [b"%d" % number for number in range(receiver.stats["in_msgs"])]
    return receiver


@test()
async def drain_a_subscription(server):
    client = await drained(server, lambda _, subscription: subscription.drain())
    assert client.is_connected


@test()
async def drain_a_connection(server):
    client = await drained(server, lambda receiver, _: receiver.drain())
    assert client.is_closed


@test()
async def no_echo(server):
    client, other = await connect(server, no_echo=True), await connect(server)
    own, theirs = await client.subscribe("a"), await other.subscribe("a")
    await asyncio.gather(client.flush(), other.flush())
    await client.publish("a", b"x")
    assert await bodies(theirs, 1) == [b"x"]
    # What comes first is the answer of the other one.
    await other.publish("a", b"y")
    assert await bodies(own, 1) == [b"y"]


@test("small")
async def max_payload(server):
    client = await connect(server)
    assert client.max_payload == 1024
    subscription = await client.subscribe("a")
    await client.publish("a", b"x" * 1024)
    assert await bodies(subscription, 1) == [b"x" * 1024]
    try:
        await client.publish("a", b"x" * 1025)
    except MaxPayloadError:
        return
    raise AssertionError("a payload above the most is sent")


@test("small")
async def a_client_that_ignores_max_payload(server):
    # nats-py closes for good after such an error.
    client = await connect(server)
    client._max_payload = 1 << 20
    await client.publish("a", b"x" * 2000)
    await until("it is disconnected", lambda: client.is_closed)
    assert "maximum payload violation" in str(client.last_error).lower(), client.last_error


@test()
async def largest_payload(server):
    client = await connect(server)
    subscription = await client.subscribe("a")
    body = os.urandom(client.max_payload)
    await client.publish("a", body)
    assert await bodies(subscription, 1) == [body]


@test()
async def server_info(server):
    client = await connect(server)
    info = client._server_info
    assert info["headers"] is True and info["proto"] == 1 and info["max_payload"] == 1 << 20
    assert info["version"].count(".") == 2 and info["server_id"] and info["client_id"] > 0, info
    other = await connect(server)
    assert other.client_id != client.client_id


async def survives(server, harm):
    """A client hears again after its connection is lost, also what it sends meanwhile."""
    lost, back = asyncio.Event(), asyncio.Event()

    async def disconnected():
        lost.set()

    async def reconnected():
        back.set()

    client = await connect(server, disconnected_cb=disconnected, reconnected_cb=reconnected)
    plain, grouped = await client.subscribe("a.>"), await client.subscribe("a.b", queue="q")
    await client.subscribe("shout", cb=answer)
    await client.publish("a.b", b"before")
    assert await bodies(plain, 1) == await bodies(grouped, 1) == [b"before"]
    harm()
    async with asyncio.timeout(PATIENCE_S):
        await lost.wait()
        await client.publish("a.b", b"meanwhile")
        await back.wait()
    await client.publish("a.b", b"after")
    assert await bodies(plain, 2) == await bodies(grouped, 2) == [b"meanwhile", b"after"]
    assert (await client.request("shout", b"x", timeout=PATIENCE_S)).data == b"X"


@test()
async def reconnect_after_the_death_of_a_worker(server):
    await survives(server, server.kill_worker)


@test()
async def reconnect_after_a_restart(server):
    await survives(server, server.restart)


@test()
async def a_crowd_reconnects_at_once(server):
    back = 0

    async def reconnected():
        nonlocal back
        back += 1

    clients = []
    for _ in range(0, CROWD, 50):
        # Not all at once: the first connection is tried only once.
        more = [connect(server, reconnected_cb=reconnected) for _ in range(50)]
        clients += await asyncio.gather(*more)
    subscriptions = [await client.subscribe("everyone") for client in clients]
    await asyncio.gather(*[client.flush(PATIENCE_S) for client in clients])
    server.kill_worker()
    await until("all are back", lambda: back == CROWD)
    await asyncio.gather(*[client.flush(PATIENCE_S) for client in clients])
    await clients[0].publish("everyone", b"x")
    for subscription in subscriptions:
        assert await bodies(subscription, 1) == [b"x"]


@test("impatient")
async def a_slow_consumer_is_cut_off(server):
    sender, other = await connect(server), await connect(server)
    heard = await other.subscribe("flood", pending_bytes_limit=1 << 40, pending_msgs_limit=1 << 40)
    await other.flush()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=4096)
    writer.write(b'CONNECT {"verbose":false}\r\nSUB flood 1\r\nPING\r\n')
    async with asyncio.timeout(PATIENCE_S):
        while await reader.readline() != b"PONG\r\n":
            pass
    # It reads no more from here on.
    writer.transport.pause_reading()
    body, sent = b"x" * 60_000, 300
    for _ in range(sent):
        await sender.publish("flood", body)
        await sender.flush(PATIENCE_S)
    assert await bodies(heard, sent) == [body] * sent
    writer.transport.resume_reading()
    async with asyncio.timeout(PATIENCE_S):
        taken = await read_to_the_end(reader)
    assert taken < sent * len(body), "it was not cut off"
    assert sender.is_connected and other.is_connected


async def read_to_the_end(reader):
    taken = 0
    try:
        while part := await reader.read(1 << 16):
            taken += len(part)
    except ConnectionError:
        pass
    return taken


@test()
async def a_slow_subscription_of_a_client(server):
    errors = []

    async def note(error):
        errors.append(error)

    client = await connect(server, error_cb=note)
    await client.subscribe("a", pending_msgs_limit=1)
    for _ in range(10):
        await client.publish("a", b"x")
    await until("an error is told", lambda: errors)
    assert all(isinstance(error, SlowConsumerError) for error in errors), errors


@test()
async def jetstream_is_absent(server):
    client = await connect(server)
    stream = client.jetstream()
    for call in [stream.account_info(), stream.add_stream(name="S", subjects=["s"]), stream.publish("s", b"x")]:
        try:
            await call
        except (ServiceUnavailableError, NoRespondersError, NotFoundError, nats.js.errors.NoStreamResponseError):
            continue
        raise AssertionError("a call of JetStream is answered")


@test()
async def the_end_is_told(server):
    closed = asyncio.Event()

    async def done():
        closed.set()

    client = await connect(server, allow_reconnect=False, closed_cb=done)
    await client.subscribe("a")
    await client.flush()
    server.drain()
    async with asyncio.timeout(PATIENCE_S):
        await closed.wait()


async def run(name, options, function):
    with Server(options) as server:
        try:
            async with asyncio.timeout(3 * PATIENCE_S):
                await function(server)
        except Exception:
            traceback.print_exc()
            print("".join(server.log[-20:]), file=sys.stderr)
            return False
    return True


def main():
    pattern, failed = (sys.argv[1:] or [""])[0], []
    chosen = [entry for entry in TESTS if pattern in entry[0]]
    for name, options, function in chosen:
        passed = asyncio.run(run(name, options, function))
        print(f"  {'ok    ' if passed else 'FAILED'} nats-py {name}", flush=True)
        if not passed:
            failed.append(name)
    print(f"nats-py: {len(chosen) - len(failed)} of {len(chosen)} passed")
    return 1 if failed else 0


sys.exit(main())
