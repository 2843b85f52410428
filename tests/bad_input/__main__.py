"""Fuzzing from a command line: `python -m tests.bad_input --codecs 1000000 --http 100000`.

Every input comes from its number and `--seed` alone, so that a failing one is made again by `--first N --codecs 1`.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import logging
import os
import random
import sys
import time

import structlog

from tests.bad_input.codecs import attempt
from tests.bad_input.hostile import noise
from tests.gateway.fleet import Running, site, until

CONNECTIONS = 8


def fuzz_codecs(seed: int, first: int, count: int) -> list[str]:
    """What went wrong, one line each."""
    return [problem for number in range(first, first + count) if (problem := attempt(seed, number))]


async def fuzz_http(seed: int, first: int, count: int) -> list[str]:
    """The same over a socket, against a gateway of this process; it must serve as before afterwards."""
    problems: list[str] = []
    async with site() as fleet:
        await fleet.worker()
        gateway = await fleet.gateway()
        numbers = iter(range(first, first + count))

        async def attack() -> None:
            for number in numbers:
                await _one(gateway, number, noise(random.Random(f"{seed} {number}")), problems)

        await asyncio.gather(*[attack() for _ in range(CONNECTIONS)])
        service = gateway.gateway.service
        await until(lambda: not len(service.answers.pending))
        if service.admission.size or service.admission.calls:
            problems.append(
                f"{service.admission.calls} calls and {service.admission.size} bytes are left in the gateway"
            )
        if (await gateway.infer()).status_code != 200:
            problems.append("the gateway does not serve any more")
    return problems


async def _one(gateway: Running, number: int, sent: bytes, problems: list[str]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
    answer = b""
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(sent)
            await writer.drain()
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 30)
    except TimeoutError:
        problems.append(f"http {number}: the connection was not closed")
    finally:
        writer.transport.abort()
    if b"Traceback" in answer or b"HTTP/1.1 500" in answer:
        problems.append(f"http {number}: {sent[:200]!r} got {answer[:200]!r}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bad_input", description="Fuzz the codecs and the HTTP door.")
    parser.add_argument("--codecs", type=int, default=1_000_000, help="inputs for the codecs")
    parser.add_argument("--http", type=int, default=100_000, help="inputs over HTTP")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    problems: list[str] = []
    started = time.monotonic()
    chunk = 5000
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count() or 1) as pool:
        parts = [
            pool.submit(fuzz_codecs, options.seed, at, min(chunk, options.first + options.codecs - at))
            for at in range(options.first, options.first + options.codecs, chunk)
        ]
        for part in parts:
            problems += part.result()
    print(f"codecs: {options.codecs} inputs in {time.monotonic() - started:.0f} s", flush=True)
    started = time.monotonic()
    if options.http:
        problems += asyncio.run(fuzz_http(options.seed, options.first, options.http))
        print(f"HTTP: {options.http} inputs in {time.monotonic() - started:.0f} s", flush=True)
    print(*problems[:50], f"{len(problems)} problems", sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
