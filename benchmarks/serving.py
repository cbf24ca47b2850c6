"""The server under load: a real process, real connections, the sandbox's base model.

Run with ``OMP_NUM_THREADS=1 python -m benchmarks.serving`` (about ten minutes; ``--quick`` for one). Prints Markdown.
The client is a few lines on asyncio, so that it takes little of the processor that the server needs; the
tests use the official client. Wall-clock figures depend on what else the machine does: read the ratios, and processor
time, which is the server process's own.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

AT_ONCE = 32
NEW = 32


@dataclasses.dataclass
class Answer:
    """What one request came to, in seconds from its sending."""

    status: int
    seconds: float
    first: float | None
    tokens: int
    text: str


def bodies(count: int, seed: int, stream: bool = False) -> list[bytes]:
    """Requests with questions of the sandbox, sampled."""
    from truing.sandbox.items import items

    draw = random.Random(seed)
    questions = [item.prompt for kind in ("fact", "benign", "harmful", "context") for item in items(kind, n=100)]
    return [
        json.dumps(
            {"model": "base", "messages": [{"role": "user", "content": draw.choice(questions)}], "max_tokens": NEW,
             "temperature": 1.0, "seed": draw.randrange(2**31), "stream": stream,
             **({"stream_options": {"include_usage": True}} if stream else {})}
        ).encode()
        for _ in range(count)
    ]  # fmt: skip


class Line:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, body: bytes) -> Answer:
        """Send a request and read its answer, chunked or whole."""
        if self.writer is None or self.writer.is_closing():
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        assert self.reader is not None
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        began = time.perf_counter()
        self.writer.write(head.encode() + body)
        told = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = int(told.split()[1])
        if "chunked" not in told:
            size = re.search(r"content-length: (\d+)", told)
            assert size is not None
            found = json.loads(await self.reader.readexactly(int(size[1])))
            text = found["choices"][0]["message"]["content"] if status == 200 else ""
            tokens = found["usage"]["completion_tokens"] if status == 200 else 0
            return Answer(status, time.perf_counter() - began, None, tokens, text)
        first, text, tokens = None, "", 0
        while size_line := int(await self.reader.readline(), 16):
            data = (await self.reader.readexactly(size_line + 2))[:-2]
            for event in data.decode().split("\n\n"):
                if not event.startswith("data: {"):
                    continue
                chunk = json.loads(event[6:])
                tokens = chunk["usage"]["completion_tokens"] if chunk.get("usage") else tokens
                for choice in chunk["choices"]:
                    if choice["delta"].get("content"):
                        first = first or time.perf_counter() - began
                        text += choice["delta"]["content"]
        await self.reader.readline()
        return Answer(status, time.perf_counter() - began, first, tokens, text)


async def load(port: int, asked: Sequence[bytes], at_once: int) -> tuple[list[Answer], float]:
    """All answers, and the seconds that they took together."""
    waiting = list(enumerate(asked))[::-1]
    found: list[Answer | None] = [None] * len(asked)

    async def work() -> None:
        line = Line(port)
        while waiting:
            at, body = waiting.pop()
            found[at] = await line.ask(body)
        if line.writer is not None:
            line.writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return [one for one in found if one is not None], time.perf_counter() - began


def processor(pid: int) -> float:
    """Processor seconds of a process so far."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Resident megabytes of a process."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def share(values: Sequence[float], of: float) -> str:
    """A quantile in milliseconds."""
    return f"{1000 * sorted(values)[min(len(values) - 1, int(of * len(values)))]:.0f}"


def plain(asked: Sequence[bytes]) -> tuple[list[str], int, float, float]:
    """The same requests by `generate` in this process, a batch after another: texts, tokens, wall and processor s."""
    import truing

    model = truing.load("sandbox/base")
    prompts = [json.loads(body)["messages"] for body in asked]
    model.generate(prompts[:AT_ONCE], max_new_tokens=NEW, temperature=1.0, batch_size=AT_ONCE)
    began, before = time.perf_counter(), time.process_time()
    found = model.generate(prompts, max_new_tokens=NEW, temperature=1.0, seed=1, batch_size=AT_ONCE)
    tokens = sum(len(one.tokens) for one in found)
    wall, busy = time.perf_counter() - began, time.process_time() - before
    # Each request has a seed of its own, which `generate` takes one of: equality is checked on a part.
    some = [
        model.generate([prompt], max_new_tokens=NEW, temperature=1.0, seed=json.loads(body)["seed"])[0].text
        for prompt, body in list(zip(prompts, asked))[:40]
    ]
    return some, tokens, wall, busy


def race(quick: bool = False) -> str:
    """Run all of it."""
    many, most = (200, 600) if quick else (1000, 5000)
    process = subprocess.Popen(
        [sys.executable, "-m", "truing", "serve", "base=sandbox/base", "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        address = re.search(r":(\d+)/v1", process.stderr.readline())
        assert address is not None
        port, pid = int(address[1]), process.pid
        asyncio.run(load(port, bodies(200, 9), AT_ONCE))
        start = memory(pid)
        rows = []
        kept: list[Answer] = []
        for name, count, at_once, stream in (
            (f"{AT_ONCE} at once", many, AT_ONCE, False),
            (f"{AT_ONCE} at once, streamed", many, AT_ONCE, True),
            ("one at a time", max(50, many // 10), 1, False),
        ):
            before = processor(pid)
            answers, wall = asyncio.run(load(port, bodies(count, 1, stream), at_once))
            busy = processor(pid) - before
            kept = kept or answers
            errors = sum(one.status != 200 for one in answers)
            seconds, tokens = [one.seconds for one in answers], sum(one.tokens for one in answers)
            firsts = [one.first for one in answers if one.first is not None]
            rows.append(
                f"| {name} | {count} | {errors} | {count / wall:.1f} | "
                f"{share(seconds, 0.5)} | {share(seconds, 0.95)} | "
                f"{', '.join(share(firsts, of) for of in (0.5, 0.95)) if firsts else '-'} | {tokens / wall:.0f} | "
                f"{1000 * busy / tokens:.2f} |"
            )
        after = memory(pid)
        texts, tokens, wall, busy = plain(bodies(many, 1))
        equal = sum(one.text == text for one, text in zip(kept, texts))
        rows.append(
            f"| `generate` in batches of {AT_ONCE}, no server | {many} | - | {many / wall:.1f} | - | - | - | "
            f"{tokens / wall:.0f} | {1000 * busy / tokens:.2f} |"
        )
        held = [after]
        errors = 0
        for part in range(5):
            answers, _ = asyncio.run(load(port, bodies(most // 5, 20 + part, part % 2 == 1), AT_ONCE))
            errors += sum(one.status != 200 for one in answers)
            held.append(memory(pid))
    finally:
        process.terminate()
        code = process.wait(60)
        process.stderr.close()
    slope = statistics.linear_regression(range(len(held)), held).slope * len(held[1:])
    lines = [
        f"Prompts of the sandbox, temperature 1, at most {NEW} tokens. {os.cpu_count()} processors, one thread. Load "
        f"average at the end: {os.getloadavg()[0]:.1f}.",
        "",
        "| requests | number | errors | requests/s | p50, ms | p95, ms | first token p50, p95, ms | tokens/s | "
        "processor ms a token |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"Answers equal to those of the model alone: {equal} of {len(texts)}.",
        f"Memory of the server: {start:.0f} MB after 200 requests, {after:.0f} MB after the table, then "
        f"{', '.join(f'{one:.0f}' for one in held[1:])} MB over {most} more ({errors} errors; fitted growth "
        f"{slope:+.1f} MB). It ended with code {code}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    print(race(parser.parse_args().quick))
