"""Where ipcd answers otherwise than nats-server, and why. `record` writes ipcd's own answers for these
scripts only, so that any other difference is a fault. Read them in the diff before you commit them.
"""

import re

# Patterns of names, and the reason for all that match.
REASONS = [
    (r"(publish|subscribe) to b'(\\x01|a\\x1bb|a\\x00b|\\xff|\\xff\.\\xfe|a\\x0bb)'|group b'\\xff'",
     "subjects and names of groups are UTF-8 without control characters, for they are shown to people"),
    (r"(publish|subscribe) to b'@", "a subject that begins with @ is the address of a peer"),
    (r"(publish|subscribe) to b'(aaaa\.\.\.(256|1000|4000)|a\.a\.\.\.\.199|(a\.){16}a)'|reply b'aaaa",
     "a subject has at most 255 bytes and 16 tokens"),
    (r"(PUB|SUB) with a subject of 40", "a subject has at most 255 bytes and 16 tokens"),
    (r"group b'qqqq\.\.\.(65|256|1000)'|a long number", "a group's name and a subscription's id have at most 64 bytes"),
    (r"publish to b'[^@]*[*>][^@]*'|headers to a wildcard",
     "a message to a wildcard is refused; nats-server also delivers it"),
    (r"headers with (17|65) KiB", "the headers of a message have at most 16 KiB"),
    (r"headers with (an empty value|blanks)",
     "headers are entries of a frame and written anew: one blank is before each value"),
    (r"a payload of b'0+1?' bytes", "a size is written anew, without leading zeros"),
    (r"a payload of b'2147483647' bytes", "the reason is told"),
    (r"CONNECT b'(null|\{\"verbose\":false,\"verbose\":true\}|\{\"VERBOSE\":false\})'",
     "the JSON of CONNECT is an object, with each member once, in lower case"),
    (r"CONNECT b'\{\"verbose\":false,\"(pedantic\":1|name\":1|lang\":\[\])\}'|CONNECT .*\"account\"",
     "a member of CONNECT without effect here is not read"),
    (r"(no CONNECT: )?verbose$", "the +OK of a message comes once it is accepted, so behind what it delivers to the same client"),
    (r"\d+ bytes of blanks in SUB", "blanks count for the limit of a line"),
    (r"what a server sends: '(-ERR\\r\\n|INFO \{\\r\\n)'", "operations of a server are not read beyond their name"),
    (r"reply b'\$JS\.ACK", "there is no JetStream, so its subjects are as all others"),
    (r"b'P[IO]NG\\r\\n' before the token", "PING and PONG are taken before CONNECT, by every listener"),
    (r"b'FOO\\r\\n' before the token", "an operation that does not exist is told as such"),
    (r"a wrong token after the right one", "credentials count in the first CONNECT, and later ones change nothing"),
    (r".*b'UNSUB 1 2147483648'", "a limit has 64 bits"),
]


def reason(name):
    """The reason why ipcd may answer this script otherwise."""
    return next((why for pattern, why in REASONS if re.match(pattern, name)), None)
