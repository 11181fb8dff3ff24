"""Writes the inputs fuzzing begins with, from Tests/Corpus: seeds.py CORPUS-FOLDER OUT-FOLDER."""

import pathlib
import re
import sys

corpus, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
ESCAPE = re.compile(rb"\\(r|n|t|0|\\|x[0-9a-fA-F]{2})")
PLAIN = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


def unescape(text):
    return ESCAPE.sub(lambda m: PLAIN.get(m[1]) or bytes([int(m[1][1:], 16)]), text)


cases = []
for path in sorted((corpus / "http").glob("*.txt")):
    kind, said = None, b""
    for line in path.read_bytes().split(b"\n") + [b""]:
        if not line:
            if kind:
                cases.append((kind, said))
            kind, said = None, b""
        elif line.startswith(b"kind: "):
            kind = line[6:].decode()
        elif line.startswith(b"in: "):
            said += unescape(line[4:])
documents = [
    b'{"version":1,"replicas":[{"id":"a","generation":1,"address":"127.0.0.1:1","state":"ready","weight":2}]}',
    b'{"version":2,"policy":"round_robin","allow_empty":true,"replicas":[]}', b'{"timeouts":{"queue":"1s"}}',
    b'{"tls":{"cert":"/a","key":"/b"}}', b'[1e5,-0.5,"\\u00e9\\n",true,null,{}]',
]
seeds = {
    "request": [said for kind, said in cases if kind == "request"],
    "response": [b"\0" + said for kind, said in cases if kind == "response"],
    "chunked": [b"\3" + said for kind, said in cases if kind == "chunked"],
    "admin": documents + [
        b"\xfePUT /v1/replicas HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)
        for text in documents],
    # A record of a handshake, an alert, data, and none of them.
    "tls": [b"\0\x2c" + b"\x16\x03\x01\x00\x28\x01\x00\x00\x24\x03\x03" + bytes(34), b"\0\x06\x15\x03\x03\x00\x02\x01\x00",
            b"\0\x10GET / HTTP/1.1\r\n", b"\x05", b"\0\x07\x17\x03\x03\x00\x03abc"],
    # Rounds of: one more client, bytes for somebody, an end for somebody.
    "engine": [bytes([3, 4, 1, 0, 0, 0, 0, 0, 9] + [(7 * i * i + k * i) % 240 for i in range(200)]) for k in range(24)],
}
for target, inputs in seeds.items():
    folder = out / target
    folder.mkdir(parents=True, exist_ok=True)
    for number, said in enumerate(inputs):
        (folder / f"seed-{number}").write_bytes(said)
