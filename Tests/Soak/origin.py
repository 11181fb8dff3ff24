"""A replica of the soak: small answers, events, uploads, WebSockets and answers nobody can read at once."""

import asyncio
import hashlib
import sys

BIG = b"x" * 65536


async def serve(reader, writer):
    try:
        while await answer(reader, writer):
            pass
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass
    finally:
        writer.close()


async def answer(reader, writer):
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ")
    fields = {line.split(":", 1)[0].lower(): line.split(":", 1)[1].strip() for line in lines[1:] if line}
    if target == "/socket":
        return await echo(reader, writer)
    if target == "/early" and method == "POST":
        # Says no before the upload has come, and reads on.
        writer.write(reply(b"no", "413 Content Too Large"))
    body = await read_body(reader, fields)
    if target == "/early":
        return True
    if target.startswith("/events/"):
        return await events(writer, int(target.rsplit("/", 1)[1]))
    if target.startswith("/big/"):
        count = int(target.rsplit("/", 1)[1])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (count * len(BIG)))
        for _ in range(count):
            writer.write(BIG)
            await writer.drain()
        return True
    if target.startswith("/slow/"):
        await asyncio.sleep(int(target.rsplit("/", 1)[1]) / 1000)
    writer.write(reply(hashlib.sha256(target.encode() + body).hexdigest().encode()))
    await writer.drain()
    return True


def reply(body, status="200 OK"):
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


async def read_body(reader, fields):
    if "content-length" in fields:
        return await reader.readexactly(int(fields["content-length"]))
    if "transfer-encoding" not in fields:
        return b""
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body


async def events(writer, count):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for number in range(count):
        event = b"data: %d\n\n" % number
        writer.write(b"%x\r\n%s\r\n" % (len(event), event))
        await writer.drain()
        await asyncio.sleep(0.02)
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


async def echo(reader, writer):
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    return False


async def main():
    port = int(sys.argv[1])
    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
