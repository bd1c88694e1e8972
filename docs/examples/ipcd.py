#!/usr/bin/env python3
"""A client of ipcd in Python, written from docs/PROTOCOL.md alone. Standard library only.

It speaks over Unix-domain stream sockets and TCP. As a program:

    ipcd.py [--token FILE] ENDPOINT send SUBJECT [BODY]       without BODY: a message per line of stdin
    ipcd.py [--token FILE] ENDPOINT post SUBJECT [BODY]       send, and say what became of it
    ipcd.py [--token FILE] [--group NAME] ENDPOINT recv FILTER [COUNT]
    ipcd.py [--token FILE] ENDPOINT req SUBJECT [BODY]
    ipcd.py [--token FILE] [--group NAME] ENDPOINT serve FILTER [COUNT]     replies with what was sent
    ipcd.py [--token FILE] ENDPOINT ping

ENDPOINT is unix:///path, unix:@name or tcp://host:port.
"""

import argparse
import collections
import hashlib
import hmac
import math
import os
import select
import socket
import struct
import sys
import time

HEADER = struct.Struct("<IBBBBHHIQQ")
HELLO, CHALLENGE, AUTH, WELCOME, MESSAGE, SUBSCRIBE, UNSUBSCRIBE, FLUSH = range(1, 9)
ACK, ERROR, NOTICE, PING, PONG, BYE, QUERY, ANSWER, RECEIPT = range(9, 18)
MORE, WANTS_RECEIPT, IS_REQUEST = 1, 2, 4

CODES = ("Protocol Version Denied TooLarge BadSubject NameTaken Limit TimedOut TooSlow Ending"
         " Unsupported Kicked NoResponder Unanswered").split()
REASONS = "Oldest Newest CutOff Departed WorkerDied TooLarge".split()
OVERFLOW = {"block": 0, "drop-oldest": 1, "drop-newest": 2, "disconnect": 3}
LARGEST_HEADERS = 16_384
LARGEST_BODY = 65_536

Frame = collections.namedtuple(
    "Frame", "kind flags subscription correlation sender subject reply headers payload")
Message = collections.namedtuple(
    "Message", "subject payload reply headers id sender subscription is_request more")


class Refused(Exception):
    """The daemon refused a frame, or ended the session."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


class ProtocolError(Exception):
    """What came is not the protocol of ipcd."""


# Bodies: fixed-size little-endian integers, one field behind the other.

def put_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def put_option(value, put):
    return b"\0" if value is None else b"\1" + put(value)


class Body:
    """Takes the fields off a body, and checks that it is used up exactly."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None and self.at != len(self.data):
            raise ProtocolError("bytes are left over in a body")

    def bytes(self, count):
        field = self.data[self.at:self.at + count]
        if len(field) < count:
            raise ProtocolError("a body that ends early")
        self.at += count
        return field

    def number(self, code):
        return struct.unpack("<" + code, self.bytes(struct.calcsize(code)))[0]

    def string(self):
        return self.bytes(self.number("Q")).decode()

    def option(self, take):
        return take() if self.number("B") else None

    def choice(self, names):
        index = self.number("I")
        return names[index] if index < len(names) else str(index)


def encode_headers(headers):
    entries = []
    for key, value in headers.items():
        key = key.encode()
        entries.append(struct.pack("<BH", len(key), len(value)) + key + value)
    return b"".join(entries)


def decode_headers(block):
    """The entries of a header block; none if it is malformed, for the daemon does not check it."""
    headers, at = {}, 0
    try:
        while at < len(block):
            key_len, value_len = struct.unpack_from("<BH", block, at)
            at += 3
            if at + key_len + value_len > len(block):
                return {}
            headers[block[at:at + key_len].decode()] = block[at + key_len:at + key_len + value_len]
            at += key_len + value_len
    except (struct.error, UnicodeDecodeError):
        return {}
    return headers


def encode_frame(kind, correlation=0, payload=b"", subject=b"", reply=b"", headers=b"", flags=0,
                 wait=0):
    length = HEADER.size + len(subject) + len(reply) + len(headers) + len(payload)
    head = HEADER.pack(
        length, kind, flags, len(subject), len(reply), len(headers), wait, 0, correlation, 0)
    return head + subject + reply + headers + payload


def decode_frame(data, largest):
    """The frame at the start of the bytes, and its length; None if it is not whole yet."""
    if len(data) < 4:
        return None
    length, = struct.unpack_from("<I", data)
    if not HEADER.size <= length <= largest:
        raise ProtocolError(f"a frame of {length} bytes")
    if len(data) < length:
        return None
    _, kind, flags, subject, reply, headers, _, subscription, correlation, sender = \
        HEADER.unpack_from(data)
    ends = [HEADER.size]
    for part in (subject, reply, headers):
        ends.append(ends[-1] + part)
    if ends[-1] > length:
        raise ProtocolError("a frame shorter than its parts")
    parts = [bytes(data[start:end]) for start, end in zip(ends, ends[1:] + [length])]
    return Frame(kind, flags, subscription, correlation, sender, *parts), length


def hello_body(nonce, name=None, token_name=None, no_echo=False):
    return (b"ipcd" + struct.pack("<HHQ", 1, 1, 0) + nonce + put_option(name, put_string)
            + put_option(token_name, put_string) + struct.pack("<?", no_echo))


def subscribe_body(number, filter, overflow=None, origin=False, group=None):
    put_overflow = lambda word: struct.pack("<I", OVERFLOW[word])
    return (struct.pack("<I", number) + put_string(filter) + put_option(group, put_string)
            + put_option(overflow, put_overflow) + struct.pack("<?", origin))


def proof(token, label, ours, theirs):
    return hmac.new(token, label + b"\0" + ours + theirs, hashlib.sha256).digest()


def connect(endpoint, timeout):
    scheme, _, address = endpoint.partition(":")
    if scheme == "unix":
        address = address[2:] if address.startswith("//") else address
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
    elif scheme == "tcp":
        host, _, port = address.removeprefix("//").rpartition(":")
        sock = socket.create_connection((host.strip("[]"), int(port)), timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        raise ValueError(f"{endpoint}: this client speaks unix and tcp")
    sock.setblocking(False)
    return sock


class Client:
    """A connection. It reads while its own write waits, so that it never waits for itself."""

    def __init__(self, endpoint, token=None, name=None, token_name=None, no_echo=False, timeout=5.0):
        self.timeout = timeout
        self.sock = connect(endpoint, timeout)
        self.input, self.output = bytearray(), bytearray()
        self.messages, self.gaps, self.origins = collections.deque(), [], {}
        self.answers, self.refused, self.ended, self.late_replies = {}, None, None, 0
        self.next_id, self.next_subscription = 1, 1
        self.max_payload = 0
        self._open(token, name, token_name, no_echo)

    def publish(self, subject, payload=b"", reply="", headers=None):
        """Sends a message, some time before the next call that waits."""
        self._message(subject, payload, reply, headers)
        while len(self.output) >= 65_536:
            self._turn(None)

    def publish_acked(self, subject, payload=b"", reply="", headers=None):
        """Waits until every copy is delivered or dropped: how many, and how many by reason."""
        number = self._message(subject, payload, reply, headers, WANTS_RECEIPT)
        with Body(self._await(number, self.timeout)) as body:
            delivered, reasons = body.number("Q"), body.number("Q")
            return delivered, {body.choice(REASONS): body.number("Q") for _ in range(reasons)}

    def request(self, subject, payload=b"", timeout=5.0, headers=None):
        """The first reply. Refused says why there is none, TimeoutError that it is too late."""
        wait = min(max(1, math.ceil(timeout)), 65_535)
        address = f"@{self.peer}.{self.next_id}"
        number = self._message(subject, payload, address, headers, IS_REQUEST, wait)
        return self._await(number, timeout)

    def reply(self, to, payload=b"", headers=None, more=False):
        """Replies to a request; with `more` another reply to it will follow."""
        self._message(to.reply, payload, "", headers, MORE if more else 0)

    def flush(self):
        """Waits until the daemon has accepted everything before."""
        self._ask(FLUSH)
        if self.refused:
            refused, self.refused = self.refused, None
            raise refused

    def subscribe(self, filter, overflow=None, origin=False, group=None):
        """What is published after this returns will come, or to another member of the group.

        Returns the subscription's number.
        """
        number, self.next_subscription = self.next_subscription, self.next_subscription + 1
        self._ask(SUBSCRIBE, subscribe_body(number, filter, overflow, origin, group))
        return number

    def unsubscribe(self, number):
        self._ask(UNSUBSCRIBE, struct.pack("<I", number))

    def ping(self):
        """Seconds that the daemon takes to answer."""
        start = time.monotonic()
        self._ask(PING)
        return time.monotonic() - start

    def matching(self, subject):
        """How many subscriptions match a subject."""
        with Body(self._ask(QUERY, struct.pack("<I", 2) + put_string(subject))) as body:
            assert body.number("I") == 2
            return body.number("Q")

    def find(self, who):
        """The id of the peer with this name or id, or None."""
        with Body(self._ask(QUERY, struct.pack("<I", 4) + put_string(who))) as body:
            assert body.number("I") == 4
            return body.option(lambda: body.number("Q"))

    def receive(self, timeout=None):
        """The next message, or None when none comes in time. Without a timeout it waits for ever."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.messages:
            if not self._turn(deadline):
                return None
        return self.messages.popleft()

    def close(self):
        """Waits until everything is accepted, says goodbye and reads to the end."""
        try:
            self.flush()
            self._send(BYE, correlation=0)
            deadline = time.monotonic() + self.timeout
            while self.output and self._turn(deadline):
                pass
            self.sock.shutdown(socket.SHUT_WR)
            while self._turn(deadline):
                pass
        except (ConnectionError, OSError):
            pass
        finally:
            self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close() if kind is None else self.sock.close()

    def _open(self, token, name, token_name, no_echo):
        deadline = time.monotonic() + self.timeout
        nonce, theirs = os.urandom(32), None
        self.output += encode_frame(HELLO, 0, hello_body(nonce, name, token_name, no_echo))
        while True:
            frame = self._take(4096 + LARGEST_BODY)
            if frame is None:
                if not self._turn(deadline, dispatch=False):
                    raise TimeoutError("no answer to HELLO came in time")
            elif frame.kind == CHALLENGE and theirs is None:
                if token is None:
                    raise PermissionError("the daemon asks for a token")
                with Body(frame.payload) as body:
                    theirs = body.bytes(32)
                self.output += encode_frame(AUTH, 0, proof(token, b"ipcd peer", nonce, theirs))
            elif frame.kind == WELCOME:
                break
            elif frame.kind == ERROR:
                raise self._refusal(frame)
            else:
                raise ProtocolError(f"kind {frame.kind} came before WELCOME")
        with Body(frame.payload) as body:
            version, _, self.peer = body.number("H"), body.number("Q"), body.number("Q")
            self.max_payload, self.server = body.number("I"), body.string()
            theirs_proof = body.option(lambda: body.bytes(32))
        if version != 1:
            raise ProtocolError(f"the daemon chose version {version}")
        if theirs is not None:
            expected = proof(token, b"ipcd daemon", nonce, theirs)
            if not hmac.compare_digest(theirs_proof or b"", expected):
                raise PermissionError("the daemon could not prove that it holds the token")

    def _send(self, kind, payload=b"", subject=b"", reply=b"", headers=b"", correlation=None, flags=0,
              wait=0):
        if correlation is None:
            correlation, self.next_id = self.next_id, self.next_id + 1
        self.output += encode_frame(
            kind, correlation, payload, subject, reply, headers, flags, wait)
        return correlation

    def _message(self, subject, payload, reply="", headers=None, flags=0, wait=0):
        if len(payload) > self.max_payload:
            raise ValueError(f"{len(payload)} bytes, where the daemon takes {self.max_payload}")
        return self._send(MESSAGE, payload, subject.encode(), reply.encode(),
                          encode_headers(headers or {}), flags=flags, wait=wait)

    def _ask(self, kind, body=b""):
        """Sends a frame that is answered, and returns the answer's payload."""
        return self._await(self._send(kind, body), self.timeout)

    def _await(self, number, timeout):
        """Waits for what comes of a frame that is not written yet."""
        deadline = time.monotonic() + timeout
        self.answers[number] = None
        while self.answers[number] is None:
            if not self._turn(deadline):
                del self.answers[number]
                raise TimeoutError("no answer came in time")
        answer = self.answers.pop(number)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _turn(self, deadline, dispatch=True):
        """Writes and reads what is possible, waiting until something is; False at the deadline."""
        if self.ended:
            raise self.ended
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        can_read, can_write, _ = select.select(
            [self.sock], [self.sock] if self.output else [], [], wait)
        if can_write:
            try:
                del self.output[:self.sock.send(self.output)]
            except (BrokenPipeError, ConnectionResetError):
                self.output.clear()     # reading to the end tells why
        if can_read:
            data = self.sock.recv(262_144)
            self.input += data
            if dispatch:
                self._dispatch()
            if not data:
                self.ended = self.ended or ConnectionError("the daemon closed the connection")
                raise self.ended
        return bool(can_read or can_write)

    def _take(self, largest):
        found = decode_frame(self.input, largest)
        if found is None:
            return None
        frame, length = found
        del self.input[:length]
        return frame

    def _dispatch(self):
        largest = HEADER.size + 2 * 255 + LARGEST_HEADERS + max(self.max_payload, LARGEST_BODY)
        while (frame := self._take(largest)) is not None:
            self._handle(frame)

    def _handle(self, frame):
        if frame.kind == MESSAGE:
            self._take_message(Message(
                frame.subject.decode(), frame.payload, frame.reply.decode(errors="replace") or None,
                decode_headers(frame.headers), frame.correlation, frame.sender, frame.subscription,
                bool(frame.flags & IS_REQUEST), bool(frame.flags & MORE)))
        elif frame.kind in (ACK, PONG, ANSWER, RECEIPT):
            if frame.correlation in self.answers:
                self.answers[frame.correlation] = frame.payload
        elif frame.kind == ERROR and frame.correlation == 0:
            self.ended = self._refusal(frame)
        elif frame.kind == ERROR and frame.correlation in self.answers:
            self.answers[frame.correlation] = self._refusal(frame)
        elif frame.kind == ERROR:
            refusal = self._refusal(frame)
            if refusal.code not in ("NoResponder", "Unanswered"):   # of a request given up
                self.refused = self.refused or refusal
        elif frame.kind == NOTICE:
            self._notice(frame.payload)
        elif frame.kind == PING:
            self._send(PONG, correlation=frame.correlation)

    def _take_message(self, message):
        address = f"@{self.peer}."
        if not message.subject.startswith(address):
            self.messages.append(message)
        elif (number := int(message.subject.removeprefix(address))) in self.answers:
            self.answers[number] = self.answers[number] or message
        else:
            self.late_replies += 1

    def _notice(self, payload):
        with Body(payload) as body:
            if body.number("I") == 1:
                self.gaps.append((body.number("I"), body.choice(REASONS), body.number("Q")))
                return
            u32 = lambda: body.number("I")
            origin = {
                "peer": body.number("Q"), "name": body.option(body.string),
                "transport": body.string(), "pid": body.option(u32), "uid": body.option(u32),
                "gid": body.option(u32), "addr": body.option(lambda: self._address(body)),
            }
        self.origins[origin["peer"]] = origin

    @staticmethod
    def _address(body):
        family, size = [(socket.AF_INET, 4), (socket.AF_INET6, 16)][body.number("I")]
        return socket.inet_ntop(family, body.bytes(size)), body.number("H")

    @staticmethod
    def _refusal(frame):
        with Body(frame.payload) as body:
            return Refused(body.choice(CODES), body.string())


def main():
    parser = argparse.ArgumentParser(description="A client of ipcd.")
    parser.add_argument("--token", help="file with the token, for TCP")
    parser.add_argument("--name")
    parser.add_argument("--group", help="share the work with other members of this group")
    parser.add_argument("endpoint")
    parser.add_argument("verb", choices=["send", "post", "recv", "req", "serve", "ping"])
    parser.add_argument("subject", nargs="?", default="")
    parser.add_argument("argument", nargs="?", help="the body, or how many messages")
    args = parser.parse_args()
    token = None
    if args.token:
        with open(args.token, "rb") as file:
            token = file.read().strip(b" \t\n\r\f")
    with Client(args.endpoint, token, args.name) as client:
        if args.verb == "ping":
            print(f"{client.ping() * 1e6:.1f} µs")
        elif args.verb == "send" and args.argument is None:
            for line in sys.stdin.buffer:
                client.publish(args.subject, line.rstrip(b"\n"))
        elif args.verb in ("recv", "serve"):
            receive(client, args)
        else:
            body = (args.argument or "").encode()
            if args.verb == "send":
                client.publish(args.subject, body)
            elif args.verb == "post":
                delivered, dropped = client.publish_acked(args.subject, body)
                print(f"{delivered} delivered", *(f"{dropped[why]} {why}" for why in dropped), sep=", ")
            else:
                write_line(client.request(args.subject, body).payload)


def receive(client, args):
    client.subscribe(args.subject, origin=True, group=args.group)
    print("subscribed", file=sys.stderr, flush=True)
    left = int(args.argument) if args.argument else -1
    while left:
        message, left = client.receive(), left - 1
        if args.verb == "recv":
            write_line(message.payload)
        elif message.reply:
            client.reply(message, message.payload)


def write_line(payload):
    sys.stdout.buffer.write(payload + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    try:
        main()
    except (Refused, ProtocolError, OSError, ValueError) as error:
        sys.exit(f"ipcd.py: {error}")
