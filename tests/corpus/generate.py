#!/usr/bin/env python3
"""Writes the corpus: bytes that a peer may send and no client of ours does, and the expected answers.

It is made from docs/PROTOCOL.md alone, without any code of ipcd, so that both are checked against the
page. Each script has a name and steps; `tests/faults/corpus.rs` plays them against the real daemon.
Run it in this folder after a change, and commit its output; a test compares.

A step is one of
  {"open": true}                a session is opened as a client does, with a token where one is required
  {"send": HEX}                 these bytes, as one record where records are kept; "fill": BYTE, "times": N append so many more;
                                in them `@#########` stands for the peer's own address, which has nine digits
  {"expect": KIND, ...}         a frame of this kind comes next; "correlation", "code", "subject",
                                "payload" (hex) are compared if they are given
  {"expect": "alive"}           a PING is answered
  {"expect": "close"}           the daemon ends the connection; nothing comes before but BYE
  {"expect": "end"}             the same, whatever comes before
  {"finish": true}              the peer ends its writing direction
  {"expect": "cookie" | "gone"} of datagrams; {"expect": "silence"}: no answer, although it is read
"note" describes the bytes.
"""

import json
import struct
import sys
import zlib
from pathlib import Path

HERE = Path(__file__).parent

HELLO, CHALLENGE, AUTH, WELCOME, MESSAGE, SUBSCRIBE, UNSUBSCRIBE, FLUSH, ACK = range(1, 10)
ERROR, NOTICE, PING, PONG, BYE, QUERY, ANSWER, RECEIPT = range(10, 18)
NAMES = ("hello challenge auth welcome message subscribe unsubscribe flush ack error notice ping "
         "pong bye query answer receipt").split()
HANDSHAKE_MOST = 4096
PAYLOAD_MOST = 1 << 20
FRAME_MOST = 32 + 2 * 255 + 16384 + PAYLOAD_MOST

# --- bytes


def frame(kind, body=b"", correlation=0, subject=b"", reply=b"", headers=b"", flags=0, wait=0,
          subscription=0, sender=0, length=None, parts=None):
    rest = subject + reply + headers + body
    a, b, c = parts or (len(subject), len(reply), len(headers))
    if length is None:
        length = 32 + len(rest)
    return struct.pack("<IBBBBHHIQQ", length, kind, flags, a, b, c, wait, subscription,
                       correlation, sender) + rest


def string(text, length=None):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data) if length is None else length) + data


def maybe(value):
    return b"\0" if value is None else b"\1" + value


def hello_fields(magic=b"ipcd", oldest=1, newest=1, features=0, nonce=bytes(range(32)), name=None,
                 token=None, no_echo=0):
    name = name if name is None or isinstance(name, bytes) and name[:1] == b"R" else string(name)
    if name is not None and name[:1] == b"R":
        name = name[1:]
    return [magic, struct.pack("<H", oldest), struct.pack("<H", newest),
            struct.pack("<Q", features), nonce, maybe(name),
            maybe(None if token is None else string(token)), bytes([no_echo])]


def hello(**fields):
    return b"".join(hello_fields(**fields))


def subscribe_fields(number=1, filter="a", group=None, overflow=None, origin=0):
    filter = filter[1:] if isinstance(filter, bytes) and filter[:1] == b"R" else string(filter)
    group = None if group is None else string(group)
    overflow = None if overflow is None else struct.pack("<I", overflow)
    return [struct.pack("<I", number), filter, maybe(group), maybe(overflow), bytes([origin])]


def subscribe(correlation, **fields):
    return frame(SUBSCRIBE, b"".join(subscribe_fields(**fields)), correlation)


def message(correlation, subject, payload=b"", **more):
    subject = subject if isinstance(subject, bytes) else subject.encode()
    return frame(MESSAGE, payload, correlation, subject, **more)


def query(index, rest=b""):
    return struct.pack("<I", index) + rest


# --- scripts

files = {}
family = None


def begin(name):
    global family
    family = files.setdefault(name, [])


def script(name, *steps, over="stream"):
    assert all(name != other["name"] for other in family), name
    family.append({"name": name, "over": over, "steps": list(steps)})


def send(data, note, fill=None, times=None):
    run = len(data) - len(data.rstrip(data[-1:]))
    if not times and run > 100:
        # People do not read long repetitions, so they are abbreviated.
        data, fill, times = data[:-run], data[-1:], run
    step = {"send": data.hex(), "note": note}
    if times:
        step |= {"fill": fill.hex(), "times": times}
    return step


def expect(what, **more):
    more = {key: value.hex() if isinstance(value, bytes) else value for key, value in more.items()}
    return {"expect": what} | more


OPEN = {"open": True}
OWN = b"@#########"
FINISH = {"finish": True}
ALIVE = expect("alive")
CLOSE = expect("close")
END = expect("end")


def fails(code="Protocol"):
    return [expect("error", correlation=0, code=code), CLOSE]


def refused(correlation, code="BadSubject"):
    return [expect("error", correlation=correlation, code=code), ALIVE]


# --- families


def handshakes():
    begin("handshake")
    for kind in range(1, 18):
        if kind in (HELLO, PING, BYE):
            continue
        script(f"{NAMES[kind - 1].upper()} comes first", send(frame(kind, b"", 1), "empty body"),
               *fails())
    script("PING comes first", send(frame(PING, b"", 9), "PING 9"),
           expect("pong", correlation=9), OPEN, ALIVE)
    script("BYE comes first", send(frame(BYE), "BYE"), END)
    script("a MESSAGE comes first", send(message(1, "too.early", b"x"), "a good message"),
           *fails())
    script("HELLO after PING and again PING", send(frame(PING, b"", 1) + frame(PING, b"", 2), "two"),
           expect("pong", correlation=1), expect("pong", correlation=2), OPEN, ALIVE)
    for magic in (b"http", b"IPCD", b"\0\0\0\0", b"ipce"):
        script(f"magic {magic!r}", send(frame(HELLO, hello(magic=magic)), "HELLO"), *fails())
    for oldest, newest in ((0, 0), (2, 2), (2, 65535), (65535, 65535), (2, 1), (1, 0), (65535, 0)):
        script(f"versions {oldest} to {newest}",
               send(frame(HELLO, hello(oldest=oldest, newest=newest)), "HELLO"), *fails("Version"))
    names = {
        "empty": "", "of 65 bytes": "n" * 65, "of 4000 bytes": "n" * 3900,
        "with a space": "a b", "with a tab": "a\tb", "with a newline": "a\nb",
        "with CR and LF": "a\r\nb", "with NUL": "a\0b", "with ESC": "a\x1b[2Jb",
        "with DEL": "a\x7fb", "with C1's CSI": "a\x9b2Jb", "with a no-break space": "a\u00a0b",
        "with a line separator": "a\u2028b", "with an ideographic space": "a\u3000b",
        "that is one space": " ", "that rings": "\a",
    }
    for what, name in names.items():
        script(f"a name {what}", send(frame(HELLO, hello(name=name)), "HELLO"),
               *fails("BadSubject"))
    for what, raw in {
        "no UTF-8": b"R" + string(b"\xff\xfe"),
        "a lone surrogate": b"R" + string(b"\xed\xa0\x80"),
        "overlong": b"R" + string(b"\xc0\xae"),
        "longer than the frame": b"R" + string("abc", 5000),
        "of 2^32 bytes": b"R" + string("abc", 1 << 32),
        "of 2^63 bytes": b"R" + string("abc", 1 << 63),
        "of 2^64-1 bytes": b"R" + string("abc", (1 << 64) - 1),
    }.items():
        script(f"a name that is {what}", send(frame(HELLO, hello(name=raw)), "HELLO"), *fails())
    fields = hello_fields(name="ann", token="ci")
    for at, what in enumerate("magic oldest newest features nonce name token no_echo".split()):
        body = b"".join(fields[:at])
        script(f"a HELLO that ends before {what}", send(frame(HELLO, body), "HELLO"), *fails())
        if len(fields[at]) > 1:
            body += fields[at][:-1]
            script(f"a HELLO that ends within {what}", send(frame(HELLO, body), "HELLO"), *fails())
    script("a HELLO with a byte too many", send(frame(HELLO, hello() + b"\0"), "HELLO"), *fails())
    script("a HELLO with 4,000 bytes too many", send(frame(HELLO, hello() + bytes(4000)), "HELLO"),
           *fails())
    plain = hello()
    for at, what in ((len(plain) - 3, "name"), (len(plain) - 2, "token")):
        for tag in (2, 255):
            body = plain[:at] + bytes([tag]) + plain[at + 1:]
            script(f"{what} is optional, and says {tag}", send(frame(HELLO, body), "HELLO"),
                   *fails())
    for value in (2, 255):
        body = plain[:-1] + bytes([value])
        script(f"no_echo is {value}", send(frame(HELLO, body), "HELLO"), *fails())
    script("a second HELLO", OPEN, send(frame(HELLO, hello()), "HELLO"), *fails())
    script("AUTH in an open session", OPEN, send(frame(AUTH, bytes(32)), "AUTH"), *fails())
    script("the longest frame of a handshake",
           send(frame(HELLO, bytes(HANDSHAKE_MOST - 32)), "HELLO of 4,096 bytes"), *fails())
    script("a frame of 4,097 bytes before WELCOME",
           send(frame(PING, b"", length=HANDSHAKE_MOST + 1), "only its header"), *fails())
    script("a HELLO without a body", send(frame(HELLO, b""), "HELLO"), *fails())


def lengths():
    begin("lengths")
    for state, steps, most in (("before WELCOME", [], HANDSHAKE_MOST),
                               ("in a session", [OPEN], FRAME_MOST)):
        bad = [0, 1, 4, 16, 31, most + 1, 2 * most, 1 << 24, 1 << 31, (1 << 31) - 1, (1 << 32) - 1]
        for length in sorted(set(bad)):
            if 32 <= length <= most:
                continue
            script(f"length {length} {state}", *steps,
                   send(struct.pack("<I", length), "four bytes, and nothing behind"), *fails())
        script(f"length {most} {state} and then the end", *steps,
               send(struct.pack("<I", most), "the largest that is allowed"), FINISH, END)
    for length in range(32):
        script(f"a header that says {length} bytes", OPEN,
               send(frame(PING, b"", 1, length=length), "PING"), *fails())
    script("the largest message", OPEN, send(subscribe(1, filter="big"), "SUBSCRIBE big"),
           expect("ack", correlation=1),
           send(message(2, "big", length=32 + 3 + PAYLOAD_MOST), "MESSAGE", b"x", PAYLOAD_MOST),
           expect("message", subject="big"), ALIVE)
    script("a payload one byte too large", OPEN,
           send(message(2, "big", length=33 + 3 + PAYLOAD_MOST), "MESSAGE", b"x", PAYLOAD_MOST + 1),
           *refused(2, "TooLarge"))
    script("a frame of the largest length", OPEN,
           send(message(2, "big", length=FRAME_MOST), "MESSAGE", b"x", FRAME_MOST - 35),
           *refused(2, "TooLarge"))
    parts = {"subject": (200, 0, 0), "reply": (0, 200, 0), "headers": (0, 0, 2000),
             "all of them": (255, 255, 65535), "subject by one byte": (10, 0, 0)}
    for what, sizes in parts.items():
        script(f"shorter than its {what}", OPEN,
               send(frame(MESSAGE, b"payload..", 1, parts=sizes), "MESSAGE"), *fails())
    script("parts that are just the frame", OPEN, send(subscribe(1, filter="abc"), "SUBSCRIBE abc"),
           expect("ack", correlation=1), send(message(2, "abc"), "MESSAGE without a payload"),
           expect("message", subject="abc", payload=b""), ALIVE)
    script("16,384 bytes of headers", OPEN,
           send(frame(MESSAGE, b"", 2, b"h", headers=bytes(16384)), "MESSAGE"), ALIVE)
    script("16,385 bytes of headers", OPEN,
           send(frame(MESSAGE, b"", 2, b"h", headers=bytes(16385)), "MESSAGE"),
           *refused(2, "TooLarge"))
    script("65,535 bytes of headers", OPEN,
           send(frame(MESSAGE, b"", 2, b"h", headers=bytes(65535)), "MESSAGE"),
           *refused(2, "TooLarge"))
    script("malformed headers are passed on", OPEN, send(subscribe(1, filter="h"), "SUBSCRIBE h"),
           expect("ack", correlation=1),
           send(frame(MESSAGE, b"p", 2, b"h", headers=b"\xff\xff\xff\xffx"), "MESSAGE"),
           expect("message", subject="h", payload=b"p"), ALIVE)
    script("a body of 65,537 bytes", OPEN, send(frame(SUBSCRIBE, bytes(65537), 1), "SUBSCRIBE"),
           *fails())
    script("a body of a mebibyte", OPEN, send(frame(QUERY, bytes(1 << 20), 1), "QUERY"), *fails())


def kinds():
    begin("kinds")
    for kind in (0, 18, 19, 31, 32, 64, 100, 127, 128, 200, 254, 255):
        for state, steps in (("before WELCOME", []), ("in a session", [OPEN])):
            script(f"kind {kind} {state}", *steps, send(frame(kind, b"body", 1), "unknown kind"),
                   *fails())
    for kind in (CHALLENGE, WELCOME, ACK, ERROR, NOTICE, ANSWER, RECEIPT):
        name = NAMES[kind - 1].upper()
        script(f"{name} is not for the daemon", OPEN, send(frame(kind, b"", 1), name), *fails())
    script("PONG that nobody asked for", OPEN, send(frame(PONG, b"", 77), "PONG"), ALIVE)
    script("a hundred PINGs", OPEN,
           send(b"".join(frame(PING, b"", n) for n in range(1, 101)), "PING 1 to 100"),
           *[expect("pong", correlation=n) for n in range(1, 101)], ALIVE)
    for kind in (PING, FLUSH):
        name = NAMES[kind - 1].upper()
        answer = "pong" if kind == PING else "ack"
        script(f"{name} with a payload", OPEN, send(frame(kind, b"payload", 3), name),
               expect(answer, correlation=3), ALIVE)
        script(f"{name} with all parts", OPEN,
               send(frame(kind, b"p", 3, b"sub", b"re", b"head"), name),
               expect(answer, correlation=3), ALIVE)
        script(f"{name} with correlation 2^64-1", OPEN, send(frame(kind, b"", (1 << 64) - 1), name),
               expect(answer, correlation=(1 << 64) - 1), ALIVE)
        script(f"{name} with correlation 0", OPEN, send(frame(kind), name),
               expect(answer, correlation=0), ALIVE)
    for bit in range(3, 8):
        script(f"flag {bit} means nothing on PING", OPEN,
               send(frame(PING, b"", 3, flags=1 << bit), "PING"), expect("pong", correlation=3),
               ALIVE)
        script(f"flag {bit} means nothing on MESSAGE", OPEN, send(subscribe(1), "SUBSCRIBE a"),
               expect("ack", correlation=1), send(message(2, "a", flags=1 << bit), "MESSAGE"),
               expect("message", subject="a"), ALIVE)
    for name, more in {"sender": {"sender": 1}, "sender of 2^64-1": {"sender": (1 << 64) - 1},
                       "subscription": {"subscription": 7},
                       "subscription of 2^32-1": {"subscription": (1 << 32) - 1}}.items():
        script(f"a forged {name}", OPEN, send(subscribe(1, number=5), "SUBSCRIBE a as 5"),
               expect("ack", correlation=1), send(message(2, "a", b"x", **more), "MESSAGE"),
               expect("message", subject="a", subscription=5, own=True), ALIVE)


GOOD_SUBJECTS = ["a", "a.b", "a*b", "x>", ">x", "*a", "a.b*.c", "$", "a-b_c", "A.B", "0", "ü.é",
                 "日本.語", "\U0001f600", "e\u0301", "a@b", "a.@1", "x" * 255,
                 ".".join(["t"] * 16), "_INBOX.1", "$SYS.x", "a/b", "a:b", "\\", "\"", "'", "%s",
                 "\ufeff", "\u200b", "\u202e"]
BAD_SUBJECTS = {
    "empty": b"", "a dot": b".", "two dots": b"..", "an empty token": b"a..b",
    "a dot in front": b".a", "a dot behind": b"a.", "a wildcard": b"*", "a tail": b">",
    "a wildcard token": b"a.*", "a tail token": b"a.>", "a wildcard in the middle": b"a.*.b",
    "a space": b"a b", "only a space": b" ", "a tab": b"a\tb", "LF": b"a\nb", "CR": b"a\rb",
    "CR and LF": b"a\r\nb", "NUL": b"a\0b", "NUL behind": b"a\0", "ESC": b"a\x1b[2Jb",
    "a title of a terminal": b"\x1b]0;pwned\x07", "BEL": b"a\x07", "BS": b"a\x08", "DEL": b"a\x7f",
    "C1's CSI": "a\x9b2J".encode(), "NEL": "a\x85b".encode(), "NBSP": "a\xa0b".encode(),
    "a line separator": "a\u2028b".encode(), "a paragraph separator": "a\u2029b".encode(),
    "an ideographic space": "a\u3000b".encode(), "an em space": "a\u2003b".encode(),
    "0xff": b"\xff", "0xfe 0xff": b"\xfe\xff", "an overlong dot": b"a\xc0\xaeb",
    "an overlong slash of three": b"\xe0\x80\xaf", "a surrogate": b"\xed\xa0\x80",
    "beyond Unicode": b"\xf4\x90\x80\x80", "a cut sequence": b"a\xe2\x82", "Latin-1": b"caf\xe9",
    "a continuation alone": b"\x80", "17 tokens": b".".join([b"t"] * 17),
    "128 tokens": b".".join([b"t"] * 128),
    "@": b"@", "@ and a letter": b"@a", "@ and a name": b"@ann.1", "@ negative": b"@-1",
    "@ plus": b"@+1", "@ with a leading zero": b"@01", "@ with a dot": b"@1.",
    "@ with three numbers": b"@1.2.3", "@ with a zero in front of the request": b"@1.02",
    "@ beyond 64 bits": b"@18446744073709551616", "@ and @": b"@@1", "@ hexadecimal": b"@0x1",
    "@ in other digits": "@\u0661".encode(), "@ wildcard": b"@*", "@ tail": b"@>",
    "@ with a request beyond 64 bits": b"@1.18446744073709551616",
}


def subjects():
    begin("subjects")
    for subject in GOOD_SUBJECTS:
        name = subject if len(subject) < 40 else f"{subject[:4]}… of {len(subject)} bytes"
        script(f"good: {name.encode('unicode_escape').decode()}", OPEN,
               send(subscribe(1, filter=">"), "SUBSCRIBE >"), expect("ack", correlation=1),
               send(message(2, subject, b"x"), "MESSAGE"), expect("message", subject=subject),
               ALIVE)
    for name, subject in BAD_SUBJECTS.items():
        script(f"bad: {name}", OPEN, send(message(2, subject, b"x"), "MESSAGE"), *refused(2))
    script("a bad one without a number is only counted", OPEN,
           send(message(0, b"a..b"), "MESSAGE with correlation 0"), ALIVE)
    for name, address in {"nobody": "@1", "nobody's request": "@1.1", "0": "@0", "2^64-1":
                          f"@{(1 << 64) - 1}", "a request of 2^64-1": f"@7.{(1 << 64) - 1}"}.items():
        script(f"an address: {name}", OPEN, send(message(2, address, b"x"), "MESSAGE"), ALIVE)
    for reply in (b"a..b", b"\xff\xfe", b"\x1b[2J", b"*", b"@", b"r" * 255):
        script(f"the reply subject {reply[:8]!r} is passed on", OPEN,
               send(subscribe(1), "SUBSCRIBE a"), expect("ack", correlation=1),
               send(message(2, "a", b"x", reply=reply), "MESSAGE"),
               expect("message", subject="a", payload=b"x"), ALIVE)


def filters():
    begin("filters")
    for filter in ("*", ">", "a.*", "a.>", "*.*", "*.>", "a.*.b", "a*", "a.b>", ".".join("*" * 16),
                   "é.*", "f" * 255):
        script(f"good: {filter[:20]}", OPEN, send(subscribe(1, filter=filter), "SUBSCRIBE"),
               expect("ack", correlation=1), ALIVE)
    bad = {name: text for name, text in BAD_SUBJECTS.items()
           if "wildcard" not in name and "tail" not in name}
    bad |= {"a tail in front": b">.a", "a tail in the middle": b"a.>.b", "two tails": b">.>",
            "256 bytes": b"f" * 256, "5,000 bytes": b"f" * 5000, "@ and a number": b"@1",
            "@ wildcard": b"@*"}
    for name, text in bad.items():
        try:
            text.decode()
            steps = refused(1)
        except UnicodeDecodeError:
            steps = fails()
        body = subscribe(1, filter=b"R" + string(text))
        script(f"bad: {name}", OPEN, send(body, "SUBSCRIBE"), *steps)
    for name, group in {"empty": "", "of 65 bytes": "g" * 65, "with a space": "a b",
                        "with ESC": "\x1b[31m", "with LF": "a\nb", "with NUL": "\0",
                        "with NEL": "\x85"}.items():
        script(f"a group {name}", OPEN, send(subscribe(1, group=group), "SUBSCRIBE"), *refused(1))
    script("a group of 64 bytes", OPEN, send(subscribe(1, group="g" * 64), "SUBSCRIBE"),
           expect("ack", correlation=1), ALIVE)
    script("subscription 0", OPEN, send(subscribe(1, number=0), "SUBSCRIBE"),
           *refused(1, "Protocol"))
    script("the same subscription twice", OPEN, send(subscribe(1), "SUBSCRIBE"),
           expect("ack", correlation=1), send(subscribe(2), "SUBSCRIBE"), *refused(2, "Protocol"))
    script("subscription 2^32-1", OPEN, send(subscribe(1, number=(1 << 32) - 1), "SUBSCRIBE"),
           expect("ack", correlation=1), ALIVE)
    for number in (0, 1, 77, (1 << 32) - 1):
        script(f"UNSUBSCRIBE of {number}, which is unknown", OPEN,
               send(frame(UNSUBSCRIBE, struct.pack("<I", number), 4), "UNSUBSCRIBE"),
               *refused(4, "Protocol"))
    script("UNSUBSCRIBE twice", OPEN, send(subscribe(1), "SUBSCRIBE"), expect("ack", correlation=1),
           send(frame(UNSUBSCRIBE, struct.pack("<I", 1), 2), "UNSUBSCRIBE"),
           expect("ack", correlation=2),
           send(frame(UNSUBSCRIBE, struct.pack("<I", 1), 3), "UNSUBSCRIBE"),
           *refused(3, "Protocol"))
    script("SUBSCRIBE with correlation 0", OPEN, send(subscribe(0), "SUBSCRIBE"),
           expect("ack", correlation=0), ALIVE)
    for overflow in range(4):
        script(f"overflow {overflow}", OPEN, send(subscribe(1, overflow=overflow), "SUBSCRIBE"),
               expect("ack", correlation=1), ALIVE)


def bodies():
    begin("bodies")
    fields = subscribe_fields(group="g", overflow=1)
    for at, what in enumerate("subscription filter group overflow origin".split()):
        body = b"".join(fields[:at])
        script(f"a SUBSCRIBE that ends before {what}", OPEN, send(frame(SUBSCRIBE, body, 1), ""),
               *fails())
        if len(fields[at]) > 1:
            script(f"a SUBSCRIBE that ends within {what}", OPEN,
                   send(frame(SUBSCRIBE, body + fields[at][:-1], 1), ""), *fails())
    whole = b"".join(subscribe_fields())
    script("a SUBSCRIBE with a byte too many", OPEN, send(frame(SUBSCRIBE, whole + b"\0", 1), ""),
           *fails())
    for overflow in (4, 5, 255, (1 << 32) - 1):
        script(f"a SUBSCRIBE with overflow {overflow}", OPEN,
               send(subscribe(1, overflow=overflow), ""), *fails())
    for value in (2, 255):
        script(f"a SUBSCRIBE whose origin is {value}", OPEN, send(subscribe(1, origin=value), ""),
               *fails())
        for back, what in ((3, "group"), (2, "overflow")):
            body = whole[:-back] + bytes([value]) + whole[len(whole) - back + 1:]
            script(f"a SUBSCRIBE whose optional {what} says {value}", OPEN,
                   send(frame(SUBSCRIBE, body, 1), ""), *fails())
    for length in (2, 100, 65536, 1 << 20, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1):
        script(f"a filter that says {length} bytes", OPEN,
               send(subscribe(1, filter=b"R" + string("a", length)), "SUBSCRIBE"), *fails())
        script(f"a subject in QUERY that says {length} bytes", OPEN,
               send(frame(QUERY, query(2, string("a", length)), 1), "QUERY Matching"), *fails())
    for size in (0, 1, 3, 5, 8):
        script(f"an UNSUBSCRIBE of {size} bytes", OPEN,
               send(frame(UNSUBSCRIBE, bytes(size), 1), ""), *fails())
    for index, answer in ((0, "answer"), (1, "answer"), (5, "answer"), (6, "answer")):
        script(f"QUERY {index}", OPEN, send(frame(QUERY, query(index), 3), "QUERY"),
               expect(answer, correlation=3), ALIVE)
        script(f"QUERY {index} with a byte too many", OPEN,
               send(frame(QUERY, query(index, b"\0"), 3), "QUERY"), *fails())
    for index in (8, 9, 255, 256, (1 << 31), (1 << 32) - 1):
        script(f"QUERY {index}, which does not exist", OPEN, send(frame(QUERY, query(index), 3), ""),
               *fails())
    for size in range(4):
        script(f"a QUERY of {size} bytes", OPEN, send(frame(QUERY, bytes(size), 3), ""), *fails())
    script("QUERY Kick of nobody", OPEN,
           send(frame(QUERY, query(3, struct.pack("<Q", 1)), 3), "QUERY Kick 1"),
           expect("answer", correlation=3), ALIVE)
    for index in (3, 4):
        for size in (0, 1, 7):
            script(f"QUERY {index} cut to {size} bytes", OPEN,
                   send(frame(QUERY, query(index, bytes(size)), 3), ""), *fails())
    for what, name in {"nobody": "nobody", "nothing": "", "ESC": "\x1b[2J", "a number": "1",
                       "a number beyond 64 bits": "9" * 30, "5,000 bytes": "n" * 5000}.items():
        script(f"QUERY Find {what}", OPEN,
               send(frame(QUERY, query(4, string(name)), 3), "QUERY Find"),
               expect("answer", correlation=3), ALIVE)
    script("QUERY Find no UTF-8", OPEN, send(frame(QUERY, query(4, string(b"\xff")), 3), "QUERY"),
           *fails())
    for what in ("a..b", "", "a b", "\x1b[2J", "@x", "a.*"):
        script(f"QUERY Matching {what!r}", OPEN,
               send(frame(QUERY, query(2, string(what)), 3), "QUERY Matching"), *refused(3))
    for fill in (0x00, 0x01, 0x7f, 0x80, 0xff):
        for kind in (SUBSCRIBE, UNSUBSCRIBE, QUERY):
            script(f"{NAMES[kind - 1].upper()} of 40 bytes {fill:#04x}", OPEN,
                   send(frame(kind, bytes([fill]) * 40, 1), ""), *fails())


def outcomes():
    begin("outcomes")
    receipt, request = 2, 4
    script("a receipt of a message to nobody", OPEN,
           send(message(3, "nobody", flags=receipt), "MESSAGE, RECEIPT"),
           expect("receipt", correlation=3), ALIVE)
    script("a request to nobody", OPEN,
           send(message(3, "nobody", flags=request, wait=5, reply=OWN + b".3"), "MESSAGE, REQUEST"),
           *refused(3, "NoResponder"))
    script("a request to an address that nobody has", OPEN,
           send(message(3, "@1", flags=request, wait=5, reply=OWN + b".3"), "MESSAGE, REQUEST"),
           *refused(3, "NoResponder"))
    script("a receipt of a message to an address that nobody has", OPEN,
           send(message(3, "@1", flags=receipt), "MESSAGE, RECEIPT"),
           expect("receipt", correlation=3), ALIVE)
    for flags, what in ((receipt, "receipt"), (request, "request"), (receipt | request, "both")):
        script(f"{what} with correlation 0 is only counted", OPEN,
               send(message(0, "nobody", flags=flags, wait=5), "MESSAGE"), ALIVE)
        script(f"{what} with a bad subject", OPEN,
               send(message(3, "a..b", flags=flags, wait=5), "MESSAGE"), *refused(3))
    script("the same number for two open requests", OPEN, send(subscribe(1), "SUBSCRIBE a"),
           expect("ack", correlation=1),
           send(message(3, "a", flags=request, wait=60, reply=OWN + b".3"), "MESSAGE, REQUEST 3"),
           expect("message", subject="a"),
           send(message(3, "a", flags=request, wait=60, reply=OWN + b".3"),
                "MESSAGE, REQUEST 3 again"),
           *refused(3, "Protocol"))
    script("a request that waits for 65,535 s", OPEN, send(subscribe(1), "SUBSCRIBE a"),
           expect("ack", correlation=1),
           send(message(3, "a", flags=request, wait=65535, reply=OWN + b".3"),
                "MESSAGE, REQUEST 3"),
           expect("message", subject="a"), ALIVE)
    script("a request that waits for 0 s", OPEN, send(subscribe(1), "SUBSCRIBE a"),
           expect("ack", correlation=1),
           send(message(3, "a", flags=request, reply=OWN + b".3"), "MESSAGE, REQUEST 3"),
           expect("message", subject="a"), ALIVE)
    for reply in (b"", b"@1.1", b"a..b", b"\xff", b"a", OWN, OWN + b".4", OWN + b".03"):
        script(f"a request whose reply subject is {reply!r}", OPEN, send(subscribe(1), "SUBSCRIBE"),
               expect("ack", correlation=1),
               send(message(3, "a", flags=request, wait=60, reply=reply), "MESSAGE, REQUEST 3"),
               *refused(3))
    script("MORE on a message that is no reply", OPEN, send(subscribe(1), "SUBSCRIBE a"),
           expect("ack", correlation=1), send(message(3, "a", flags=1), "MESSAGE, MORE"),
           expect("message", subject="a"), ALIVE)
    script("a reply to a request that was never made", OPEN,
           send(message(3, "@536870913.9", b"x", flags=1), "MESSAGE to a request's address"), ALIVE)


def endings():
    begin("endings")
    for steps, state in (([], "before WELCOME"), ([OPEN], "in a session")):
        script(f"the end at once {state}", *steps, FINISH, END)
        for count in (1, 3, 4, 5, 31, 32, 33):
            half = message(1, "half", b"payload")[:count]
            if state != "in a session" and count > 4:
                half = frame(HELLO, hello())[:count]
            script(f"the end behind byte {count} {state}", *steps,
                   send(half, "the beginning of a frame"), FINISH, END)
    script("BYE", OPEN, send(frame(BYE), "BYE"), expect("bye"), CLOSE)
    script("BYE twice", OPEN, send(frame(BYE) * 2, "BYE BYE"), expect("bye"), CLOSE)
    script("a message behind BYE", OPEN, send(subscribe(1), "SUBSCRIBE a"),
           expect("ack", correlation=1),
           send(frame(BYE) + message(2, "a", b"late") + frame(PING, b"", 3), "BYE MESSAGE PING"),
           expect("bye"), CLOSE)
    script("junk behind BYE", OPEN, send(frame(BYE) + b"\xff" * 1000, "BYE and 1,000 bytes"),
           expect("bye"), CLOSE)
    script("BYE with a body", OPEN, send(frame(BYE, b"body", 9), "BYE"), expect("bye"), CLOSE)
    script("FLUSH and BYE in one write", OPEN, send(frame(FLUSH, b"", 1) + frame(BYE), "FLUSH BYE"),
           expect("ack", correlation=1), expect("bye"), CLOSE)
    script("a mebibyte behind an error", OPEN,
           send(b"\xff\xff\xff\xff", "a length, and a mebibyte", b"\xff", 1 << 20), *fails())


def junk():
    begin("junk")
    for name, data in {
        "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "TLS": bytes.fromhex("1603010200010001fc0303") + bytes(32),
        "SSH": b"SSH-2.0-OpenSSH_9.6\r\n", "SMTP": b"EHLO example.org\r\n",
        "redis": b"*1\r\n$4\r\nPING\r\n", "memcached": b"get a\r\n", "NATS": b"CONNECT {}\r\nPING\r\n",
        "MQTT": bytes.fromhex("101000044d5154540402003c000474657374"),
        "AMQP": b"AMQP\x00\x00\x09\x01", "PROXY": b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n",
        "PROXY v2": bytes.fromhex("0d0a0d0a000d0a515549540a"), "D-Bus": b"l\x01\x00\x01" + bytes(12),
        "SOCKS": b"\x05\x01\x00" + bytes(8), "DNS": bytes.fromhex("001d1234010000010000000000000131"),
        "PostgreSQL": bytes.fromhex("00000008") + bytes.fromhex("04d2162f"),
        "X11": b"l\0\x0b\0\0\0\0\0\0\0\0\0", "a line": b"hello\n", "JSON": b'{"op":"hello"}\n',
        "escape sequences": b"\x1b[2J\x1b]0;pwned\x07" * 3, "64 zeros": bytes(64),
        "100,000 of 0xff": b"\xff" * 4, "ELF": b"\x7fELF\x02\x01\x01" + bytes(9),
        "a frame in big-endian order": struct.pack(">I", 94) + b"\x01" + bytes(89),
        "a frame without its length": frame(HELLO, hello())[4:],
        "our own HELLO as hexadecimal": frame(HELLO, hello()).hex().encode(),
    }.items():
        many = {"fill": b"\xff", "times": 100000} if "100,000" in name else {}
        steps = fails()
        script(name, send(data, "what a stranger says", **many), *steps)
        script(f"{name} in a session", OPEN, send(data, "what a stranger says", **many),
               *(steps if first_is_bad(data, FRAME_MOST) else [FINISH, END]))
        if not first_is_bad(data, HANDSHAKE_MOST):
            family[-2]["steps"] = [family[-2]["steps"][0], FINISH, END]
    for name, data in {"one byte": b"x", "two bytes": b"\r\n", "three bytes": b"\0\0\0"}.items():
        script(f"{name} and the end", send(data, "less than a length"), FINISH, END)


def first_is_bad(data, most):
    """Whether the bytes cannot become a frame any more."""
    length = struct.unpack("<I", data[:4])[0]
    if not 32 <= length <= most:
        return True
    return len(data) >= 32 and not (1 <= data[4] <= 17 and data[6] + data[7] <= length - 32)


def sessions():
    """Good sessions, which are also cut at every byte."""
    begin("sessions")
    good = lambda *parts: b"".join(parts)
    script("a subscriber that hears itself", OPEN,
           send(good(subscribe(1, filter="a.*"), message(2, "a.b", b"hello"),
                     frame(FLUSH, b"", 3)), "SUBSCRIBE MESSAGE FLUSH"),
           expect("ack", correlation=1), expect("message", subject="a.b", payload=b"hello"),
           expect("ack", correlation=3), send(frame(BYE), "BYE"), expect("bye"), CLOSE)
    script("messages of many sizes", OPEN,
           send(good(subscribe(1, filter="s"), *[message(n, "s", bytes(n)) for n in range(2, 9)]),
                "SUBSCRIBE, MESSAGE of 2 to 8 bytes"),
           expect("ack", correlation=1), *[expect("message", payload=bytes(n)) for n in range(2, 9)],
           ALIVE)
    script("a request to itself", OPEN,
           send(good(subscribe(1, filter="q", group="g"),
                     message(2, "q", b"?", flags=4, wait=60, reply=OWN + b".2",
                             headers=b"\1\1\0kv")),
                "SUBSCRIBE, MESSAGE with REQUEST"),
           expect("ack", correlation=1), expect("message", subject="q", payload=b"?"), ALIVE)
    script("questions", OPEN,
           send(good(frame(QUERY, query(2, string("a")), 1), frame(QUERY, query(4, string("x")), 2),
                     frame(PING, b"", 3)), "Matching, Find, PING"),
           expect("answer", correlation=1), expect("answer", correlation=2),
           expect("pong", correlation=3), ALIVE)
    script("refusals in between", OPEN,
           send(good(message(1, "a..b"), frame(PING, b"", 2), message(3, "@x"),
                     frame(UNSUBSCRIBE, struct.pack("<I", 9), 4), frame(FLUSH, b"", 5)),
                "good and bad by turns"),
           expect("error", correlation=1), expect("pong", correlation=2),
           expect("error", correlation=3), expect("error", correlation=4),
           expect("ack", correlation=5), ALIVE)


def records():
    begin("records")
    whole = lambda *frames: b"\0" + b"".join(frames)
    piece = lambda number, offset, total, data: b"\1" + struct.pack("<III", number, offset, total) + data
    over = {"over": "seqpacket"}
    ping = frame(PING, b"", 5)
    pong = expect("pong", correlation=5)
    script("frames in one record", OPEN, send(whole(ping, ping), "two PINGs"), pong, pong, ALIVE,
           **over)
    script("a record without a frame", OPEN, send(b"\0", "kind 0, nothing"), ALIVE, **over)
    script("a frame in two pieces", OPEN, send(piece(0, 0, 32, ping[:10]), "its beginning"),
           send(piece(0, 10, 32, ping[10:]), "its end"), pong, ALIVE, **over)
    script("a frame in 32 pieces", OPEN,
           *[send(piece(0, at, 32, ping[at:at + 1]), f"byte {at}") for at in range(32)], pong, ALIVE,
           **over)
    script("a missing piece", OPEN, send(piece(0, 0, 32, ping[:10]), "its beginning"),
           send(piece(0, 11, 32, ping[11:]), "not its next"), ALIVE, **over)
    script("another number", OPEN, send(piece(0, 0, 32, ping[:10]), "its beginning"),
           send(piece(1, 10, 32, ping[10:]), "another frame's"), ALIVE, **over)
    script("another total", OPEN, send(piece(0, 0, 32, ping[:10]), "its beginning"),
           send(piece(0, 10, 33, ping[10:]), "another length"), ALIVE, **over)
    script("the same piece twice", OPEN, send(piece(0, 0, 32, ping[:10]), "its beginning"),
           send(piece(0, 0, 32, ping[:10]), "again"), send(piece(0, 10, 32, ping[10:]), "its end"),
           pong, ALIVE, **over)
    script("a whole record abandons pieces", OPEN, send(piece(0, 0, 64, ping[:10]), "a beginning"),
           send(whole(ping), "PING"), pong, ALIVE, **over)
    script("an end without a beginning", OPEN, send(piece(0, 10, 32, ping[10:]), "a piece"), ALIVE,
           **over)
    script("more than its total", OPEN, send(piece(0, 0, 10, ping), "32 bytes of 10"), ALIVE, **over)
    for kind in (2, 3, 127, 255):
        script(f"a record of kind {kind}", OPEN, send(bytes([kind]) + ping, "unknown kind"), CLOSE,
               **over)
    for size in range(12):
        script(f"a piece of {size + 1} bytes", OPEN, send(b"\1" + bytes(size), "a cut header"), CLOSE,
               **over)
    for total in (FRAME_MOST + 1, 1 << 31, (1 << 32) - 1):
        script(f"a piece of a frame of {total} bytes", OPEN, send(piece(0, 0, total, b"x"), "piece"),
               CLOSE, **over)
    script("a frame with an impossible length", OPEN, send(whole(b"\xff" * 40), "a record"),
           *fails(), **over)
    script("no HELLO first", send(whole(frame(FLUSH, b"", 1)), "FLUSH"), *fails(), **over)


def datagrams():
    begin("datagrams")
    over = {"over": "udp"}
    init = lambda nonce, version=1, size=64: (b"\0" + bytes([version]) + struct.pack("<Q", nonce)).ljust(size, b"\0")
    quad = lambda *numbers: struct.pack(f"<{len(numbers)}Q", *numbers)
    script("INIT", send(init(1), "INIT"), expect("cookie"), **over)
    script("INIT of 1,400 bytes", send(init(2, size=1400), "INIT"), expect("cookie"), **over)
    for size in (10, 11, 20, 40, 62, 63):
        script(f"INIT of {size} bytes", send(init(3, size=10)[:10].ljust(size, b"\0")[:size], ""),
               expect("silence"), **over)
    for version in (0, 2, 255):
        script(f"INIT of version {version}", send(init(4, version), "INIT"), expect("silence"), **over)
    script("an empty datagram", send(b"", "nothing"), expect("silence"), **over)
    connect = b"\2" + quad(5) + struct.pack("<I", 100000)
    for name, cookie in {"zeros": bytes(32), "ones": b"\xff" * 32, "its nonce": quad(5) * 4}.items():
        script(f"CONNECT with a cookie of {name}", send(connect + cookie, "CONNECT"),
               expect("silence"), **over)
    script("CONNECT one byte short", send(connect + bytes(31), "CONNECT"), expect("silence"), **over)
    script("CONNECT one byte long", send(connect + bytes(33), "CONNECT"), expect("silence"), **over)
    script("COOKIE from a client", send(b"\1" + quad(6) + bytes(32), "COOKIE"), expect("silence"),
           **over)
    ids = {3: 12, 4: 12 + 8, 5: 24, 6: 8, 7: 0, 8: 0, 9: 4, 10: 0}
    lengths = {3: ("ACCEPT", 21), 4: ("DATA", 60), 5: ("CREDIT", 33), 6: ("PROBE", 17),
               7: ("PING", 9), 8: ("PONG", 9), 9: ("BYE", 13), 10: ("BYE_ACK", 9)}
    assert ids.keys() == lengths.keys()
    for kind, (name, size) in lengths.items():
        data = bytes([kind]) + quad(0x1122334455667788)
        data = data.ljust(size, b"\0")
        script(f"{name} of nobody", send(data, name), expect("gone"), **over)
        if name != "DATA":
            script(f"{name} of nobody, one byte short", send(data[:-1], name), expect("silence"),
                   **over)
            script(f"{name} of nobody, one byte long", send(data + b"\0", name), expect("silence"),
                   **over)
    script("DATA of 20 bytes", send(b"\4" + bytes(19), "DATA"), expect("silence"), **over)
    script("GONE is not answered", send(b"\x0b" + quad(7), "GONE"), expect("silence"), **over)
    for kind in (12, 13, 127, 128, 255):
        script(f"type {kind}", send(bytes([kind]) + bytes(63), "unknown type"), expect("silence"),
               **over)
    for size in (65000, 15001, 1400):
        script(f"{size} bytes of 0xff", send(b"\xff", "no type", b"\xff", size - 1),
               expect("silence"), **over)


def rendezvous():
    begin("rendezvous")
    record = lambda magic=b"ipcdfifo", version=1, name=bytes(16): magic + struct.pack("<I", version) + name
    sealed = lambda data: data + struct.pack("<I", zlib.crc32(data))
    over = {"over": "fifo"}
    good = sealed(record())
    for name, data in {
        "a record of no pair": good, "a wrong checksum": record() + bytes(4),
        "version 0": sealed(record(version=0)), "version 2": sealed(record(version=2)),
        "version 2^32-1": sealed(record(version=(1 << 32) - 1)),
        "half a record": good[:16], "a record and a half": good + good[:16],
        "a magic and junk": b"ipcdfifo" + b"\xff" * 50, "only magics": b"ipcdfifo" * 20,
        "magics that overlap": b"ipcdipcdfifo" * 9, "one byte": b"i", "seven bytes": b"ipcdfif",
        "ten records": good * 10, "a line": b"hello\n", "zeros": bytes(512),
        "ESC": b"\x1b[2J" * 100, "0xff": b"\xff" * 4096, "a HELLO": frame(HELLO, hello()),
        "31 bytes and a record": b"x" * 31 + good,
        "a record with a bit turned": bytes([good[0] ^ 1]) + good[1:],
        "a record with a turned bit in its name": good[:20] + bytes([good[20] ^ 1]) + good[21:],
    }.items():
        script(name, send(data, "written into the FIFO"), ALIVE, **over)
    for name, data in {"nothing": b"", "one byte": b"x", "a HELLO": frame(HELLO, hello()),
                       "a page": b"\xff" * 4096}.items():
        script(f"{name} to the pipes' socket", send(data, "written to the socket"), ALIVE,
               over="pipe")


def write(name, scripts):
    lines = []
    for item in scripts:
        steps = ",\n".join("    " + json.dumps(step, ensure_ascii=True) for step in item["steps"])
        head = json.dumps({"name": item["name"], "over": item["over"]}, ensure_ascii=True)[:-1]
        lines.append(f'  {head}, "steps": [\n{steps}\n  ]}}')
    (TARGET / f"{name}.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


TARGET = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
for make in (handshakes, lengths, kinds, subjects, filters, bodies, outcomes, endings, junk, sessions,
             records, datagrams, rendezvous):
    make()
for name, scripts in files.items():
    write(name, scripts)
print(sum(map(len, files.values())), "scripts in", len(files), "files")
