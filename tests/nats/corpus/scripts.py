"""The scripts of the corpus: bytes that a client of NATS may send, most of which no client does.

A script is a name, a server, and bytes for one connection. Its answer is not written here: `record`
takes it from a real nats-server. `differences.py` names the scripts that ipcd answers otherwise, with the
reason.
"""

import re

CONNECT = b'CONNECT {"verbose":false}\r\n'
FULL = b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\n'
# A subscription to everything of one token, so that a script shows what is delivered.
HEAR = CONNECT + b"SUB * 1\r\n"
HEAR_ALL = CONNECT + b"SUB > 1\r\n"
HEAR_FULL = FULL + b"SUB * 1\r\n"

# Servers: a plain one, one with a small max_payload, one that wants the token `secret-secret-secret`.
SERVERS = {
    "plain": "",
    "small": "max_payload: 1024\n",
    "token": "authorization { token: secret-secret-secret }\n",
}


def script(name, *parts, server="plain"):
    """Parts are bytes, or (bytes, times) for a repetition."""
    steps = []
    for part in parts:
        if isinstance(part, tuple):
            steps.append({"send": part[0].decode("latin-1"), "times": part[1]})
        else:
            steps += pieces(part.decode("latin-1"))
    return {"name": name, "server": server, "steps": steps}


def pieces(text):
    """The text, with long runs of one letter as a letter and a number."""
    at = 0
    for run in re.finditer(r"(.)\1{199,}", text, re.S):
        if text[at:run.start()]:
            yield {"send": text[at:run.start()]}
        yield {"send": run[1], "times": len(run[0])}
        at = run.end()
    if text[at:]:
        yield {"send": text[at:]}


def operations():
    unknown = ["FOO", "P", "PI", "PIN", "PX", "PIX", "PINX", "PO", "PON", "PONX", "PU", "PUX", "PUBX",
               "S", "SU", "SUX", "SUBX", "U", "UN", "UNS", "UNSU", "UNSUX", "UNSUBX", "H", "HP", "HPU",
               "HPUX", "HPUBX a 0 0", "C", "CO", "CON", "CONN", "CONNE", "CONNEC", "CONNECX",
               "CONNECT{}", "I", "IN", "INF", "INX", "M", "MS", "MSX", "+", "+O", "+X", "-", "-E", "-ER",
               "-X", "-ERX", "1", "{}", "\0", "\x7f", "\x1b[2J", "PUB", "SUB", "UNSUB", "HPUB"]
    for word in unknown:
        yield script(f"operation {word!r}", CONNECT + word.encode() + b"\r\n")
    for word in ["FOO", "PX", "\0", "PUB", "SUB", "UNSUB", "HPUB"]:
        yield script(f"operation {word!r} before CONNECT", word.encode() + b"\r\n")
    for line in ["MSG a 1 0\r\n", "HMSG a 1 0 0\r\n", "RS+ $G a\r\n", "LS+ a\r\n", "RMSG $G a 0\r\n\r\n",
                 "A+ $G\r\n", "A- $G\r\n", "LMSG a 0\r\n\r\n", "+OK\r\n", "-ERR 'x'\r\n", "-ERR\r\n",
                 'INFO {}\r\n', "INFO\r\n", "INFO {\r\n"]:
        yield script(f"what a server sends: {line!r}", CONNECT + line.encode())
    yield script("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    yield script("an HTTP POST", b"POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\nPING\r\n")
    yield script("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    yield script("TLS", bytes.fromhex("1603010200010001fc0303") + bytes(32))
    yield script("SSH", b"SSH-2.0-OpenSSH_9.6\r\n")
    yield script("AMQP", b"AMQP\0\0\x09\x01")
    yield script("MQTT", bytes.fromhex("101000044d51545404020000000461626364"))
    yield script("redis", b"*1\r\n$4\r\nPING\r\n")
    yield script("zeros", (b"\0", 64))
    yield script("255s", (b"\xff", 64))


def blanks():
    for line in [b"ping\r\n", b"PiNg\r\n", b"PING\n", b"PING \r\n", b"PING  \t\r\n", b"PING foo\r\n",
                 b" PING\r\n", b"\tPING\r\n", b"PING\r\r\n", b"\r\nPING\r\n", b"\nPING\r\n", b"\r\n", b"\n",
                 b"\r\r\n", b" \r\n", b"\t\r\n", b"pong\r\n", b"PONG\n", b"PONG x\r\n", b"PONG\r\n" * 5,
                 b"PING\r\n" * 3, b"PINGPING\r\n", b"PING\0\r\n"]:
        yield script(f"blanks {line!r}", CONNECT + line)
        yield script(f"blanks {line!r} before CONNECT", line)
    for line in [b"pub a 1\r\nx\r\n", b"Pub a 1\nx\n", b"PUB\ta\t1\r\nx\r\n", b"PUB  a   1  \r\nx\r\n",
                 b"PUB \t a \t 1 \t\r\nx\r\n", b"PUB a 1\nx\r\n", b"PUB a 1\r\nx\n", b"PUB a 1\rx\r\n",
                 b" PUB a 1\r\nx\r\n", b"\r\nPUB a 1\r\nx\r\n", b"PUB a 1 \r\nx\r\n",
                 b"PUB a\r\n", b"PUB \r\n", b"PUB\r\n", b"PUB a b c 1\r\nx\r\n", b"PUB a b c d 1\r\nx\r\n"]:
        yield script(f"PUB: {line!r}", HEAR + line)
    for line in [b"sub a 1\r\n", b"Sub a 1\n", b"SUB\ta\t1\r\n", b"SUB   a   1  \r\n", b"SUB a q 1\r\n",
                 b"SUB\ta \t q\t 1\t\r\n", b"SUB a\r\n", b"SUB \r\n", b"SUB a q r 1\r\n", b"SUB a 1 \r\n",
                 b" SUB a 1\r\n", b"SUB a one\r\n", b"SUB a s.i.d\r\n", b"SUB a -1\r\n", b"SUB a \xff\r\n"]:
        yield script(f"SUB: {line!r}", CONNECT + line + b"PUB a 1\r\nx\r\n")


def sizes():
    for size in [b"0", b"00", b"01", b"000000001", b"-1", b"-0", b"+1", b"1.0", b"1e0", b"0x1", b"x", b"1x",
                 b"\xb9", b"2147483647", b"2147483648", b"4294967296", b"9223372036854775807",
                 b"9223372036854775808", b"18446744073709551616", b"99999999999999999999999",
                 b"1" * 100, b"", b"1048577"]:
        payload = b"x\r\n" if size.strip(b"0") == b"1" else b"\r\n"
        yield script(f"a payload of {size!r} bytes", HEAR + b"PUB a " + size + b"\r\n" + payload)
    yield script("a payload with CRLF in it", HEAR + b"PUB a 4\r\n\r\n\r\n\r\n")
    yield script("a payload that looks like operations", HEAR + b"PUB a 12\r\nPING\r\nPING\r\n\r\n")
    yield script("a payload of all bytes", HEAR + b"PUB a 256\r\n" + bytes(range(256)) + b"\r\n")
    yield script("a payload longer than its size", HEAR + b"PUB a 1\r\nxy\r\n")
    yield script("a payload one byte longer, and an operation", HEAR + b"PUB a 1\r\nxyPING\r\n")
    yield script("a payload shorter than its size", HEAR + b"PUB a 3\r\nx\r\n\r\n")
    yield script("a payload with LF at its end", HEAR + b"PUB a 1\r\nx\n\r\n")
    yield script("a payload with CR only at its end", HEAR + b"PUB a 1\r\nx\rPING\r\n")
    yield script("an empty payload", HEAR + b"PUB a 0\r\n\r\n")
    yield script("an empty payload without its end", HEAR + b"PUB a 0\r\nPING\r\n")
    for times in [1023, 1024, 1025, 4096]:
        yield script(f"{times} bytes where 1,024 are allowed", HEAR + b"PUB a %d\r\n" % times,
                     (b"x", times), b"\r\n", server="small")
    yield script("1,048,576 bytes, the most", HEAR_ALL + b"PUB b.c 1048576\r\n", (b"x", 1 << 20), b"\r\n")
    for times in [1, 900, 1000, 1024]:
        head = b"NATS/1.0\r\nK: " + b"v" * max(0, times - 17) + b"\r\n\r\n"
        total = len(head) + 24
        yield script(f"{total} bytes with headers where 1,024 are allowed", HEAR_FULL,
                     b"HPUB a %d %d\r\n" % (len(head), total) + head + b"x" * 24 + b"\r\n", server="small")
    yield script("a size far above the limit, announced only", HEAR + b"PUB a 100000000\r\n")
    yield script("a size above the limit and its bytes", HEAR + b"PUB a 2000\r\n", (b"x", 2000), b"\r\n",
                 server="small")


def subjects():
    bad = [b".", b"..", b"a.", b".a", b"a..b", b"a...", b"*", b">", b"a.*", b"a.>", b"*.a", b">.a", b"a.>.b",
           b"a*", b"a>", b"a*b.c", b"a.b>", b"**", b">>", b"*>", b"@", b"@1", b"@1.2", b"a@b", b"$SYS.a",
           b"$JS.API.INFO", b"$G", b"_INBOX.a", b"\x01", b"a\x1bb", b"a\0b", b"\xc3\xa9", b"\xff", b"\xff.\xfe",
           b"a" * 255, b"a" * 256, b"a" * 1000, b".".join([b"a"] * 16), b".".join([b"a"] * 17),
           b".".join([b"a"] * 100), b"a\x0bb", b"a,b", b"a/b", b"{}", b"'", b'"', b"\\", b"0", b"-1", b"a" * 4000]
    for subject in bad:
        shown = subject if len(subject) < 40 else subject[:4] + b"...%d" % len(subject)
        yield script(f"publish to {shown!r}", HEAR_ALL + b"PUB " + subject + b" 1\r\nx\r\n")
        yield script(f"publish to {shown!r}, pedantic",
                     b'CONNECT {"verbose":false,"pedantic":true}\r\nSUB > 1\r\nPUB ' + subject + b" 1\r\nx\r\n")
        yield script(f"subscribe to {shown!r}", CONNECT + b"SUB " + subject + b" 1\r\nPUB a.b 1\r\nx\r\n")
    for reply in [b".", b"a..b", b"*", b"a.>", b"@1", b"\xff", b"a" * 256, b"reply", b"$JS.ACK.a.b.1.2.3.4.5.6.7.8"]:
        shown = reply if len(reply) < 40 else reply[:4] + b"...%d" % len(reply)
        yield script(f"reply {shown!r}", HEAR + b"PUB a " + reply + b" 1\r\nx\r\n")
        yield script(f"reply {shown!r}, pedantic",
                     b'CONNECT {"verbose":false,"pedantic":true}\r\nSUB * 1\r\nPUB a ' + reply + b" 1\r\nx\r\n")
    for filter, subject, hears in [(b"a.*", b"a.b", 1), (b"a.*", b"a", 0), (b"a.*", b"a.b.c", 0),
                                   (b"a.>", b"a", 0), (b"a.>", b"a.b.c", 1), (b"*.b", b"a.b", 1),
                                   (b"*.*", b"a.b", 1), (b"*.>", b"a.b", 1), (b">", b"a", 1), (b"a*", b"a*", 1),
                                   (b"a*", b"ab", 0), (b"a>", b"a>", 1), (b"A", b"a", 0), (b"a.*.c", b"a.b.c", 1)]:
        yield script(f"{filter.decode()} hears {subject.decode()}: {bool(hears)}",
                     CONNECT + b"SUB " + filter + b" 1\r\nPUB " + subject + b" 1\r\nx\r\n")


def subscriptions():
    double = b"PUB a 1\r\nx\r\n"
    yield script("one number twice, one subject", CONNECT + b"SUB a 1\r\nSUB a 1\r\n" + double)
    yield script("one number twice, two subjects", CONNECT + b"SUB a 1\r\nSUB b 1\r\n" + double + b"PUB b 1\r\ny\r\n")
    yield script("a long number", CONNECT + b"SUB a " + b"9" * 100 + b"\r\n" + double)
    yield script("a number with a dot", CONNECT + b"SUB a 1.5\r\n" + double + b"UNSUB 1.5\r\n" + double)
    yield script("two subscriptions hear one message", CONNECT + b"SUB a 1\r\nSUB a 1x\r\nUNSUB 1x\r\n" + double)
    yield script("a group of two has one", CONNECT + b"SUB a q 1\r\nSUB a q 1\r\n" + double)
    for queue in [b"q", b"q.r", b"*", b">", b"q*", b"@", b"\xff", b"q" * 64, b"q" * 65, b"q" * 256, b"q" * 1000]:
        shown = queue if len(queue) < 40 else queue[:4] + b"...%d" % len(queue)
        yield script(f"group {shown!r}", CONNECT + b"SUB a " + queue + b" 1\r\n" + double)
    for line in [b"UNSUB 1", b"unsub 1", b"UNSUB 2", b"UNSUB 1 0", b"UNSUB 1 1", b"UNSUB 1 2", b"UNSUB 1 3",
                 b"UNSUB 1 -1", b"UNSUB 1 x", b"UNSUB 1 99999999999999999999", b"UNSUB 1 2147483648",
                 b"UNSUB 1 1 1", b"UNSUB", b"UNSUB ", b"UNSUB  1  1 ", b"UNSUB\t1", b"UNSUB 1 +1", b"UNSUB 1 01"]:
        yield script(f"{line!r} and three messages", CONNECT + b"SUB a 1\r\n" + line + b"\r\n" + double * 3)
        yield script(f"two messages, {line!r}, and two",
                     CONNECT + b"SUB a 1\r\n" + double * 2 + line + b"\r\n" + double * 2)
    yield script("UNSUB with a limit, twice", CONNECT + b"SUB a 1\r\nUNSUB 1 1\r\nUNSUB 1 3\r\n" + double * 4)
    yield script("UNSUB with a limit, and a new subscription of this number",
                 CONNECT + b"SUB a 1\r\nUNSUB 1 1\r\n" + double + b"SUB a 1\r\n" + double * 2)
    yield script("UNSUB at once", CONNECT + b"UNSUB 1\r\nUNSUB 1\r\n")


def headers():
    def hpub(head, payload=b"x", sizes=None, connect=HEAR_FULL, subject=b"a", reply=b""):
        lengths = b"%d %d" % (len(head), len(head) + len(payload)) if sizes is None else sizes
        return connect + b"HPUB " + subject + b" " + reply + lengths + b"\r\n" + head + payload + b"\r\n"
    good = b"NATS/1.0\r\nK: v\r\n\r\n"
    yield script("headers", hpub(good))
    yield script("headers and a reply", hpub(good, reply=b"r "))
    yield script("headers without a payload", hpub(good, b""))
    yield script("headers twice", hpub(b"NATS/1.0\r\nK: v\r\nK: w\r\nk: x\r\n\r\n"))
    yield script("headers for a client without", hpub(good, connect=b'CONNECT {"verbose":false,"headers":false}\r\nSUB * 1\r\n'))
    yield script("headers without CONNECT", b"HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n")
    yield script("headers of a CONNECT that does not name them", hpub(good, connect=HEAR))
    for name, head in [("no version", b"K: v\r\n\r\n"), ("another version", b"NATS/2.0\r\nK: v\r\n\r\n"),
                       ("no end", b"NATS/1.0\r\nK: v\r\n"), ("only a version", b"NATS/1.0\r\n\r\n"),
                       ("no CRLF", b"NATS/1.0"), ("a status", b"NATS/1.0 503\r\n\r\n"),
                       ("a status and a text", b"NATS/1.0 100 Idle Heartbeat\r\n\r\n"),
                       ("no colon", b"NATS/1.0\r\nK\r\n\r\n"), ("an empty key", b"NATS/1.0\r\n: v\r\n\r\n"),
                       ("an empty value", b"NATS/1.0\r\nK:\r\n\r\n"), ("LF only", b"NATS/1.0\nK: v\n\n"),
                       ("NUL", b"NATS/1.0\r\nK: \0\r\n\r\n"), ("not UTF-8", b"NATS/1.0\r\n\xff: \xfe\r\n\r\n"),
                       ("blanks", b"NATS/1.0\r\n  K  :   v  \r\n\r\n"), ("a folded line", b"NATS/1.0\r\nK: v\r\n w\r\n\r\n"),
                       ("many", b"NATS/1.0\r\n" + b"K: v\r\n" * 500 + b"\r\n"),
                       ("16 KiB", b"NATS/1.0\r\nK: " + b"v" * 16354 + b"\r\n\r\n"),
                       ("17 KiB", b"NATS/1.0\r\nK: " + b"v" * 17408 + b"\r\n\r\n"),
                       ("65 KiB", b"NATS/1.0\r\nK: " + b"v" * 66560 + b"\r\n\r\n"),
                       ("a long key", b"NATS/1.0\r\n" + b"k" * 300 + b": v\r\n\r\n"),
                       ("lower case", b"nats/1.0\r\nK: v\r\n\r\n"), ("nothing", b"")]:
        yield script(f"headers with {name}", hpub(head))
    for lengths in [b"20 21", b"0 1", b"21 20", b"22 21", b"-1 21", b"20 -1", b"x 21", b"20 x", b"20", b"",
                    b"20 21 22", b"20 21 22 23", b"999999999999999999999 21", b"20 999999999999999999999",
                    b"2147483648 2147483649", b"1 21", b"12 21"]:
        yield script(f"header sizes {lengths!r}", hpub(b"NATS/1.0\r\nKEY: v\r\n\r\n", b"x", lengths))
    yield script("headers to a bad subject", hpub(good, subject=b"a..b"))
    yield script("headers to a wildcard", hpub(good, subject=b"*"))
    yield script("a request without a responder", FULL + b"SUB r 1\r\nPUB a r 1\r\nx\r\n")
    yield script("a request without a responder, with headers", FULL + b"SUB r 1\r\n" + hpub(good, connect=b"", reply=b"r "))
    yield script("a request without a responder nor no_responders",
                 b'CONNECT {"verbose":false,"headers":true}\r\nSUB r 1\r\nPUB a r 1\r\nx\r\n')
    yield script("a request whose reply no one hears", FULL + b"PUB a r 1\r\nx\r\n")
    yield script("a request that its own client answers", FULL + b"SUB r 1\r\nSUB a 2\r\nPUB a r 1\r\nx\r\n")


def connects():
    for body in [b"{}", b"", b" ", b"{", b"}", b"[]", b"null", b"1", b'"x"', b"{}x", b"{} {}", b"{{}}",
                 b'{"verbose":}', b'{"verbose":1}', b'{"verbose":"true"}', b'{"verbose":null}',
                 b'{"verbose":true}', b'{"verbose":false,"verbose":true}', b'{"VERBOSE":false}',
                 b'{"verbose":false,"pedantic":1}', b'{"verbose":false,"echo":"x"}', b'{"verbose":false,"protocol":"x"}',
                 b'{"verbose":false,"protocol":2}', b'{"verbose":false,"protocol":-1}',
                 b'{"verbose":false,"protocol":1}', b'{"verbose":false,"protocol":1.5}',
                 b'{"verbose":false,"name":1}', b'{"verbose":false,"name":"\\u0000\\u001b[2J"}',
                 b'{"verbose":false,"name":"' + b"n" * 1000 + b'"}', b'{"verbose":false,"lang":[]}',
                 b'{"verbose":false,"unknown":{"a":[1,2,{"b":null}]}}', b'{"verbose":false,"headers":1}',
                 b'{"verbose":false,"no_responders":true}', b'{"verbose":false,"headers":false,"no_responders":true}',
                 b'{"verbose":false,"tls_required":true}', b'{"verbose":false,"user":"a","pass":"b"}',
                 b'{"verbose":false,"auth_token":"x"}', b'{"verbose":false,"nkey":"x","sig":"y"}',
                 b'{"verbose":false,"jwt":"x"}', b'{"verbose":false,"account":"x"}', b"{'verbose':false}",
                 b'{"verbose":false,}', b'{"verbose":tru}', b'\xff', b'{"verbose":false,"name":"\xff"}',
                 b'{"verbose":false' + b" " * 500 + b"}", b"{" + b'"a":{' * 50 + b"}" * 51,
                 b"[" * 500 + b"]" * 500]:
        shown = body if len(body) < 70 else body[:20] + b"...%d" % len(body)
        yield script(f"CONNECT {shown!r}", b"CONNECT " + body + b"\r\nPUB a 0\r\n\r\n")
    yield script("CONNECT twice", CONNECT + CONNECT)
    yield script("CONNECT twice, verbose second", CONNECT + b'CONNECT {"verbose":true}\r\nSUB a 1\r\n')
    yield script("CONNECT in lower case", b'connect {"verbose":false}\r\n')
    yield script("CONNECT with LF", b'CONNECT {"verbose":false}\n')
    yield script("CONNECT with a tab", b'CONNECT\t{"verbose":false}\r\n')
    yield script("no CONNECT: verbose", b"SUB a 1\r\nPUB a 1\r\nx\r\nUNSUB 1\r\nPONG\r\n")
    yield script("verbose", b'CONNECT {"verbose":true}\r\nSUB a 1\r\nPUB a 1\r\nx\r\nUNSUB 1\r\nPONG\r\n')
    yield script("verbose and a bad subject", b'CONNECT {"verbose":true}\r\nSUB a..b 1\r\nPUB a..b 1\r\nx\r\n')
    yield script("no echo", b'CONNECT {"verbose":false,"echo":false}\r\nSUB a 1\r\nPUB a 1\r\nx\r\n')
    yield script("no echo, before protocol 1", b'CONNECT {"verbose":false,"protocol":0,"echo":false}\r\nSUB a 1\r\nPUB a 1\r\nx\r\n')


def limits():
    for length in [4000, 4090, 4096, 4097, 5000, 100000]:
        yield script(f"a line of {length} bytes of an unknown operation", CONNECT, (b"X", length), b"\r\n")
        yield script(f"SUB with a subject of {length} bytes", CONNECT + b"SUB ", (b"a", length), b" 1\r\n")
        yield script(f"PUB with a subject of {length} bytes", CONNECT + b"PUB ", (b"a", length), b" 0\r\n\r\n")
        yield script(f"CONNECT of {length} bytes", b'CONNECT {"verbose":false,"name":"', (b"n", length), b'"}\r\n')
        yield script(f"{length} bytes of blanks before PING", CONNECT, (b" ", length), b"PING\r\n")
        yield script(f"{length} bytes of blanks in SUB", CONNECT + b"SUB ", (b" ", length), b"a 1\r\n")
        yield script(f"{length} empty lines", CONNECT, (b"\r\n", length))
    yield script("UNSUB with a long number", CONNECT + b"UNSUB ", (b"1", 5000), b"\r\n")
    yield script("-ERR with a long text", CONNECT + b"-ERR ", (b"x", 5000), b"\r\n")
    yield script("5,000 PINGs", CONNECT, (b"PING\r\n", 5000))
    yield script("1,000 messages at once", HEAR, (b"PUB a 1\r\nx\r\n", 1000))
    yield script("1,000 bad subjects", HEAR, (b"PUB a..b 1\r\nx\r\n", 1000))
    yield script("1,000 subscriptions and their ends", CONNECT, (b"SUB a 1\r\nUNSUB 1\r\n", 1000))


def tokens():
    good = b'CONNECT {"verbose":false,"auth_token":"secret-secret-secret"}\r\n'
    yield script("the right token", good + b"SUB a 1\r\nPUB a 1\r\nx\r\n", server="token")
    for name, body in [("a wrong token", b'{"verbose":false,"auth_token":"Secret-secret-secret"}'),
                       ("an empty token", b'{"verbose":false,"auth_token":""}'),
                       ("no token", b'{"verbose":false}'), ("a token and more", b'{"verbose":false,"auth_token":"secret-secret-secret "}'),
                       ("a token of another type", b'{"verbose":false,"auth_token":1}'),
                       ("the token as a user", b'{"verbose":false,"user":"secret-secret-secret"}'),
                       ("the token as a password", b'{"verbose":false,"user":"a","pass":"secret-secret-secret"}')]:
        yield script(name, b"CONNECT " + body + b"\r\nSUB a 1\r\n", server="token")
    for line in [b"SUB a 1\r\n", b"PUB a 1\r\nx\r\n", b"UNSUB 1\r\n", b"PONG\r\n", b"PING\r\n", b"FOO\r\n"]:
        yield script(f"{line!r} before the token", line, server="token")
    yield script("the right token in a second CONNECT", b'CONNECT {"verbose":false}\r\n' + good, server="token")
    yield script("a wrong token after the right one", good + b'CONNECT {"verbose":false,"auth_token":"x"}\r\n', server="token")


GROUPS = [operations, blanks, sizes, subjects, subscriptions, headers, connects, limits, tokens]
