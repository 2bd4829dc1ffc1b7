"""A server with known times and faults, as a process of its own: what `mainspring bench` is measured against.

It keeps when each request came and what it said: `GET /seen`. `--fault NAME --every N` spoils each Nth request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ERROR = {"error": {"message": "no room", "type": "server_error", "code": "overloaded"}}


class StandIn:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.seen: list[dict[str, Any]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self.one(reader, writer):
                pass
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        came = time.monotonic()
        lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if lines[0].startswith("GET /seen"):
            plain(writer, 200, self.seen)
            return True
        self.seen.append({"at": came, "path": lines[0].split()[1], "body": json.loads(body), "headers": headers})
        every = self.options.every
        fault = self.options.fault if every and len(self.seen) % every == 0 else ""
        return await self.answer(writer, self.seen[-1]["body"], fault)

    async def answer(self, writer: asyncio.StreamWriter, asked: dict[str, Any], fault: str) -> bool:
        options = self.options
        if fault == "never":
            await asyncio.sleep(1000)
        if fault == "reset":
            writer.transport.abort()
            return False
        if fault == "garbage":
            writer.write(b"what do you want\r\n\r\n")
            return False
        if fault.startswith("http"):
            plain(writer, int(fault[4:]), ERROR)
            return True
        await asyncio.sleep(options.first)
        if not asked.get("stream"):
            plain(writer, 200, {"usage": {"prompt_tokens": 7, "completion_tokens": 3}, "outputs": []})
            return fault != "quiet-close"
        return await self.stream(writer, asked, fault)

    async def stream(self, writer: asyncio.StreamWriter, asked: dict[str, Any], fault: str) -> bool:
        count, options = min(asked.get("max_tokens", 16), self.options.tokens), self.options
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
                     b"x-mainspring-overhead-us: 150\r\n\r\n")  # fmt: skip
        event(writer, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        for number in range(count):
            if number:
                await asyncio.sleep(options.gap)
            event(writer, {"choices": [{"index": 0, "delta": {"content": f" w{number}"}, "finish_reason": None}]})
            if number == 1 and fault == "cut":
                writer.transport.abort()
                return False
            if number == 1 and fault == "error":
                event(writer, ERROR)
                return False
        event(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if options.usage:
            event(writer, {"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": count,
                                                    "prompt_tokens_details": {"cached_tokens": 5}}})  # fmt: skip
        if fault != "no-done":
            chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        return fault != "quiet-close"  # a close that nothing announced


def chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def event(writer: asyncio.StreamWriter, told: object) -> None:
    chunk(writer, b"data: " + json.dumps(told).encode() + b"\n\n")


def plain(writer: asyncio.StreamWriter, status: int, told: object) -> None:
    body = json.dumps(told).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--announce", type=Path)
    parser.add_argument("--first", type=float, default=0.0)
    parser.add_argument("--gap", type=float, default=0.0)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--fault", default="")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--no-usage", dest="usage", action="store_false")
    options = parser.parse_args()
    server = await asyncio.start_server(StandIn(options).serve, "127.0.0.1", 0, backlog=1024)
    host, port = server.sockets[0].getsockname()[:2]
    fresh = options.announce.with_suffix(".new")
    fresh.write_text(json.dumps({"address": f"{host}:{port}", "pid": os.getpid()}))
    fresh.replace(options.announce)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
