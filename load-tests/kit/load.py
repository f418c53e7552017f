"""Load on a proxy, and what a visit of it came to."""

import json
import re
import statistics
import subprocess
import sys

from . import handshakes
from .measure import cpu_us
from .run import HERE, Failure, needed

CONNECTIONS = 64
WARM_UP_SECONDS = 1


class Visit:
    """One proxy under load for one turn."""

    def __init__(self, requests, seconds, user_us, system_us, p50_us=None, p99_us=None):
        self.requests = requests
        self.rate = requests / seconds
        self.user_us = user_us / requests
        self.system_us = system_us / requests
        self.cpu_us = self.user_us + self.system_us
        self.p50_us, self.p99_us = p50_us, p99_us


def visit(wrk, pin, proxy, options):
    """One turn of `options.seconds` with `options.workers` threads of wrk."""
    return costing(proxy, lambda: load(wrk, pin, proxy, options.seconds, options.workers))


def costing(proxy, work):
    """The visit in which a proxy did that work, whose figures `work` returns."""
    before = cpu_us(proxy.process.pid)
    figures = work()
    after = cpu_us(proxy.process.pid)
    return Visit(
        requests=figures["requests"],
        seconds=figures["duration_us"] / 1e6,
        user_us=after[0] - before[0],
        system_us=after[1] - before[1],
        p50_us=figures.get("p50_us"),
        p99_us=figures.get("p99_us"),
    )


def load(wrk, pin, proxy, seconds, workers, scheme="http", path="/hello", connections=CONNECTIONS):
    """wrk: a closed loop over so many connections."""
    command = pin + [wrk, "-t", str(workers), "-c", str(connections), "-d", f"{seconds}s",
                     "-s", str(HERE / "users.lua"), f"{scheme}://127.0.0.1:{proxy.port}{path}"]
    return told("wrk", proxy, seconds, command)


def load_handshakes(pin, proxy, seconds, processes):
    """Connections with one request each."""
    command = pin + [sys.executable, handshakes.__file__, str(proxy.port), str(seconds), str(processes)]
    return told("the client for handshakes", proxy, seconds, command)


def load_h2(pin, proxy, seconds, uris, clients, streams):
    """h2load: so many connections with so many requests under way on each."""
    command = pin + [needed("h2load"), "-t", "1", "-c", str(clients), "-m", str(streams), "-D", str(seconds), "-i", str(uris)]
    output = done("h2load", proxy, seconds, command)
    counts = re.search(r"^requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", output, re.MULTILINE)
    taken = re.search(r"^finished in ([0-9.]+)(ms|s),", output, re.MULTILINE)
    if not counts or not taken:
        raise Failure(f"h2load said nothing that is understood of {proxy.name}:\n{output}")
    finished, succeeded = int(counts.group(1)), int(counts.group(2))
    # What was under way when the time was over counts as failed or not at all.
    if finished == 0 or finished != succeeded:
        raise Failure(f"requests failed at {proxy.name}:\n{output}")
    return {"requests": finished, "duration_us": float(taken.group(1)) * (1e6 if taken.group(2) == "s" else 1e3)}


def load_open(program, pin, port, name, seconds, rate, connections=CONNECTIONS):
    """The generator of load-tests/load: so many requests a second whatever becomes of them."""
    command = pin + [str(program), "--target", f"http://127.0.0.1:{port}", "--path", "/hello", "--rate", str(rate),
                     "--duration", f"{seconds}s", "--users", "10000", "--connections", str(connections), "-o", "json"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    except subprocess.TimeoutExpired as expired:
        raise Failure(f"the open-loop generator did not end against {name}") from expired
    if run.returncode != 0:
        raise Failure(f"the open-loop generator failed against {name}:\n{run.stdout[-2000:]}{run.stderr}")
    answer = json.loads(run.stdout)
    rows = answer["targets"][0]["arms"]
    row = next((row for row in rows if row["arm"] == "all"), rows[0])
    return {"requests": row["requests"], "duration_us": answer["seconds"] * 1e6, "p50_us": row["p50_ms"] * 1000,
            "p99_us": row["p99_ms"] * 1000, "late_p99_us": answer["told_late_us"]["p99"]}


def told(program, proxy, seconds, command):
    """The figures of a line `RESULT name=number ...`; none of them may be a failure."""
    output = done(program, proxy, seconds, command)
    line = re.search(r"^RESULT (.*)$", output, re.MULTILINE)
    if not line:
        raise Failure(f"{program} failed against {proxy.name}:\n{output}")
    figures = {key: int(value) for key, value in (pair.split("=") for pair in line.group(1).split())}
    if figures.get("failed") or not figures["requests"]:
        raise Failure(f"{figures.get('failed')} requests failed at {proxy.name} ({figures['requests']} done)")
    return figures


def done(program, proxy, seconds, command):
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=False)
    except subprocess.TimeoutExpired as expired:
        raise Failure(f"{program} did not end against {proxy.name}") from expired
    if run.returncode != 0:
        raise Failure(f"{program} failed against {proxy.name}:\n{run.stdout}{run.stderr}")
    return run.stdout


def ratios(visits, others, figure=lambda visit: visit.cpu_us):
    """A figure over that of somebody else in the same round."""
    return [figure(own) / figure(other) for own, other in zip(visits, others)]


def median(values):
    return statistics.median(values)
