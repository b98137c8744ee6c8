"""Load: many clients at once on a service of this machine, that ask for estimates and plans.

python experiments/016-service/run.py --clients 200 --seconds 600
python experiments/016-service/run.py --clients 200 --seconds 600 --training --out training.json

Each client asks one question after the other over one connection, with a pause between: nine of ten an
estimate out of `--questions` different ones, the tenth one of three overviews; all of them were asked once
before the clock starts. What is written down: the times that clients see, errors by kind, and the resident
memory of the service as it goes. With `--training` the service trains meanwhile: a search on the demo data
is submitted first, and the clock starts when its first evaluation is there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
MODELS = ("Llama-3.1-8B", "Llama-3.2-1B", "gpt2", "all-MiniLM-L6-v2")
METHODS = ("lora", "qlora", "full")
GPUS = ("l4", "l40s", "h100-sxm")


def questions(count: int) -> list[dict[str, Any]]:
    """Return different questions of a few patterns."""
    dice = random.Random(0)
    found = []
    for number in range(count):
        model = MODELS[number % len(MODELS)]
        longest = 512 if model == "all-MiniLM-L6-v2" else 1024
        found.append(
            {
                "model": model,
                "method": dice.choice(METHODS),
                "gpu": dice.choice(GPUS),
                "batch_size": dice.choice((1, 2, 4, 8)),
                "seq_len": dice.randrange(64, longest + 1, 32),
                "gradient_checkpointing": True,
            }
        )
    return found


def plans() -> list[dict[str, Any]]:
    """Return the overviews that are asked for."""
    return [{"budget": {"gpu_mem": memory}} for memory in ("16GB", "24GB", "40GB")]


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: dict[str, Any]
) -> int:
    """Send one question over a connection that is kept, and read its answer; return the status."""
    return (await post(reader, writer, path, body))[0]


async def post(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: dict[str, Any]
) -> tuple[int, bytes]:
    """Send one request over a connection that is kept; return the status and what was answered."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    await writer.drain()
    answered = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    size = re.search(r"content-length: (\d+)", answered, re.IGNORECASE)
    return int(answered.split()[1]), await reader.readexactly(int(size[1]) if size else 0)


class Training:
    """A search that the service runs beside its answers; counts its evaluations."""

    def __init__(self) -> None:
        self.evaluations = 0
        self._begun = asyncio.Event()

    async def begin(self, port: int, seconds: float) -> None:
        """Submit a search that lasts longer than so many seconds, and wait for its first evaluation."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
        wish = {"kind": "search", "demo": "classification", "budget": {"time": f"{seconds + 180:.0f}s"}}
        status, said = await post(reader, writer, "/api/v1/jobs", wish)
        if status != 201:
            raise SystemExit(f"the search was not taken: {said.decode()}")
        events = f"/api/v1/jobs/{json.loads(said)['id']}/events"
        writer.write(f"GET {events} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        await writer.drain()
        self._writer = writer  # which closes the connection when it goes
        self._task = asyncio.create_task(self._follow(reader))
        await self._begun.wait()
        if not self.evaluations:
            raise SystemExit("the search ended before its first evaluation")

    async def _follow(self, events: asyncio.StreamReader) -> None:
        async for line in events:
            if line.startswith(b"data: ") and json.loads(line[6:])["event"] == "trial-reported":
                self.evaluations += 1
                self._begun.set()
        self._begun.set()


async def client(
    port: int,
    number: int,
    until: float,
    asked: list[dict[str, Any]],
    seen: dict[str, list[float]],
    errors: Counter[str],
) -> None:
    """Ask until the time is over."""
    dice = random.Random(number)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < until:
        kind = "plan" if dice.random() < 0.1 else "estimate"
        path, body = (
            ("/api/v1/overview", dice.choice(plans()))
            if kind == "plan"
            else ("/api/v1/estimate", dice.choice(asked))
        )
        began = time.perf_counter()
        try:
            status = await ask(reader, writer, path, body)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            errors[type(error).__name__] += 1
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            continue
        seen[kind].append(time.perf_counter() - began)
        if status != 200:
            errors[str(status)] += 1
        await asyncio.sleep(dice.uniform(0, 2 * PAUSE_SECONDS))
    writer.close()


PAUSE_SECONDS = 1.0
"""Between an answer and the next question of a client, on average."""


async def load(port: int, options: argparse.Namespace, service: psutil.Process) -> dict[str, Any]:
    """Run all clients and watch the service's memory."""
    asked = questions(options.questions)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    for path, bodies in (("/api/v1/estimate", asked), ("/api/v1/overview", plans())):
        for body in bodies:
            await ask(reader, writer, path, body)
    writer.close()
    seen: dict[str, list[float]] = defaultdict(list)
    errors: Counter[str] = Counter()
    memory: list[tuple[float, int]] = []
    training = Training()
    if options.training:
        await training.begin(port, options.seconds)
    before = training.evaluations
    began = time.monotonic()
    until = began + options.seconds

    async def watch() -> None:
        while time.monotonic() < until:
            memory.append((round(time.monotonic() - began, 1), service.memory_info().rss))
            await asyncio.sleep(5)

    tasks = [client(port, number, until, asked, seen, errors) for number in range(options.clients)]
    cpu = service.cpu_times()
    await asyncio.gather(watch(), *tasks)
    used = service.cpu_times()
    half = [rss for at, rss in memory if at > options.seconds / 2]
    return {
        "clients": options.clients,
        "seconds": options.seconds,
        "pause_seconds": PAUSE_SECONDS,
        "requests_per_second": round(sum(map(len, seen.values())) / options.seconds, 1),
        "milliseconds": {kind: spread(times) for kind, times in seen.items()},
        "errors": dict(errors),
        "memory_mib": {
            "first": memory[0][1] >> 20,
            "half": half[0] >> 20 if half else None,
            "last": memory[-1][1] >> 20,
            "most": max(rss for _, rss in memory) >> 20,
        },
        "service_cpu_share": round((used.user + used.system - cpu.user - cpu.system) / options.seconds, 2),
        "evaluations_meanwhile": training.evaluations - before if options.training else None,
        "load_average": [round(each, 1) for each in os.getloadavg()],
        "cores": os.cpu_count(),
    }


def spread(times: list[float]) -> dict[str, float]:
    """Return count, median and the slow end, in milliseconds."""
    cuts = statistics.quantiles(times, n=1000, method="inclusive")
    named = {"median": cuts[499], "p90": cuts[899], "p99": cuts[989], "most": max(times)}
    return {"count": len(times)} | {name: round(1000 * value, 1) for name, value in named.items()}


def main() -> None:
    """Start a service, load it, and write what was seen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--training", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        command = [
            sys.executable,
            "-m",
            "autopeft",
            "serve",
            "--workspace",
            place,
            "--port",
            "0",
            "--rate",
            "0",
        ]
        log = Path(place) / "log.txt"
        with log.open("wb") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
            while not (found := re.search(r"serves http://127.0.0.1:(\d+)", log.read_text())):
                time.sleep(0.2)
            try:
                made = asyncio.run(load(int(found[1]), options, psutil.Process(process.pid)))
            finally:
                process.terminate()
                process.wait()
    options.out.write_text(json.dumps(made, indent=1) + "\n")
    print(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
