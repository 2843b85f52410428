"""Fuzzing from the command line: `python -m tests.bad_input --codecs 1000000 --http 1000000`.

Every input depends only on its number and `--seed`, so a failing one can be repeated: `--first N --codecs 1 --http 0 --grpc 0`, or
`--http 1` for dialogue N of the HTTP fuzzer, or `--grpc 1` for message N over gRPC; Kafka records come in groups of 40, repeated by
`--first N --records 40` with the group's first number.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import logging
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path

import structlog
import uvloop

from infra.local.servers import servers
from tests.bad_input import grpc_fuzz, openapi_fuzz
from tests.bad_input.codecs import attempt
from tests.bad_input.http_fuzz import fuzz
from tests.bad_input.kafka_fuzz import fuzz_records


def fuzz_codecs(seed: int, first: int, count: int) -> list[str]:
    """Problems, one line each."""
    return [problem for number in range(first, first + count) if (problem := attempt(seed, number))]


def records(seed: int, first: int, count: int) -> list[str]:
    """Problems with so many records on a broker, a store and a worker that are started for them."""
    with tempfile.TemporaryDirectory(prefix="penstock-servers-") as folder, servers(Path(folder)) as started:
        prefix = f"fuzz-{secrets.token_hex(4)}"
        outcome = asyncio.run(
            fuzz_records(started.kafka, started.redis, prefix, seed, first, count, lambda text: print(text, flush=True))
        )
        print(f"records: {outcome}", flush=True)
        return outcome.problems


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bad_input",
        description="Fuzz the codecs, the HTTP frontend, its documented routes, gRPC and Kafka.",
    )
    parser.add_argument("--codecs", type=int, default=1_000_000, help="inputs for the codecs")
    parser.add_argument("--http", type=int, default=1_000_000, help="requests over HTTP")
    parser.add_argument("--grpc", type=int, default=200_000, help="messages over gRPC")
    parser.add_argument("--records", type=int, default=200_000, help="records through a real broker")
    parser.add_argument("--openapi", type=int, default=100_000, help="calls by the OpenAPI document")
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
    if options.http:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            outcome = runner.run(fuzz(options.seed, options.first, options.http, lambda text: print(text, flush=True)))
        problems += outcome.problems
        print(f"HTTP: {outcome}", flush=True)
    if options.grpc:
        messages = asyncio.run(
            grpc_fuzz.fuzz(options.seed, options.first, options.grpc, lambda text: print(text, flush=True))
        )
        problems += messages.problems
        print(f"gRPC: {messages}", flush=True)
    if options.openapi:
        made = openapi_fuzz.fuzz(options.seed, options.openapi, 20, lambda text: print(text, flush=True))
        problems += made.problems
        print(f"OpenAPI: {made}", flush=True)
    if options.records:
        problems += records(options.seed, options.first, options.records)
    print(*problems[:50], f"{len(problems)} problems", sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
