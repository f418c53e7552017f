"""Instructions that a request costs, under callgrind: the same on a busy machine as on an idle one.

`per_request`: a program runs twice, with few and with twice as many requests; what its busiest thread executed more, divided by the requests
more, is the cost of a request. Start and end are in both and cancel out, and what other threads do now and then does not
count. `counted`: it runs once, and is counted only while it has requests, which is quicker where the start takes long. Requests
come 64 at a time over as many connections, as from a client that keeps a proxy busy.
"""

import contextlib
import http.client
import re
import subprocess
import time

from .run import Failure, free_ports, needed, start, stop, wait_until_open

CONNECTIONS = 64
# Everything runs some fifty times slower than it is.
PATIENCE_SECONDS = 120
# Functions that a worker alone calls are in this room.
WORKER = "weir::proxy::"


def per_request(name, command_of, requests, folder, check=None, warm_up=CONNECTIONS):
    """`command_of(port, place)` is the program with its arguments, and its environment."""
    short, long = (max(run(name, command_of, count, folder / str(count), check, warm_up).values()) for count in (requests, 2 * requests))
    return (long - short) / requests


def run(name, command_of, requests, folder, check, warm_up):
    """Instructions by thread, of one program that had so many requests."""
    (port,) = free_ports(1)
    command, environment = command_of(port, folder)
    folder.mkdir(parents=True, exist_ok=True)
    # A worker that runs as somebody else writes its counts, too.
    folder.chmod(0o777)
    counting = [needed("valgrind"), "--tool=callgrind", "--separate-threads=yes", "--trace-children=yes",
                f"--callgrind-out-file={folder}/counts.%p"] + command
    with contextlib.ExitStack() as stack:
        process = start(counting, folder, stack, environment)
        stack.callback(stop, process, PATIENCE_SECONDS)
        wait_until_open(port, process, f"{name} under callgrind", PATIENCE_SECONDS)
        Client(port, stack).ask(warm_up + requests, check)
    counts = {count.name: executed(count) for count in folder.glob("counts.*")}
    if not counts:
        raise Failure(f"{name} left no counts:\n{process.log.read_text(errors='replace')[-2000:]}")
    return counts


def counted(name, command_of, requests, folder, prepare=None, target="/hello"):
    """Instructions a request of the worker's thread, once `prepare(port, stack)` and some requests have warmed it up."""
    (port,) = free_ports(1)
    command, environment = command_of(port, folder)
    folder.mkdir(parents=True, exist_ok=True)
    counting = [needed("valgrind"), "--tool=callgrind", "--separate-threads=yes", "--instr-atstart=no",
                f"--callgrind-out-file={folder}/counts.%p"] + command
    with contextlib.ExitStack() as stack:
        process = start(counting, folder, stack, environment)
        stack.callback(stop, process, PATIENCE_SECONDS)
        wait_until_open(port, process, f"{name} under callgrind", PATIENCE_SECONDS)
        if prepare:
            prepare(port, stack)
        client = Client(port, stack, target)
        client.ask(4 * CONNECTIONS)
        switch(process, "on")
        client.ask(requests)
        if process.poll() is not None:
            raise Failure(f"{name} ended under callgrind:\n{process.log.read_text(errors='replace')[-2000:]}")
        switch(process, "off")
    files = list(folder.glob("counts.*"))
    # With very many routes the thread of the control plane executes more than the one that has the requests.
    working = [count for count in files if WORKER in count.read_text(errors="replace")]
    counts = [executed(count) for count in working or files]
    if not counts or max(counts) == 0:
        raise Failure(f"{name} left no counts:\n{process.log.read_text(errors='replace')[-2000:]}")
    return max(counts) / requests


def switch(process, to):
    """Counting on or off; returns when it is. A process that is busy may not be seen at the first look."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        run = subprocess.run([needed("callgrind_control"), "-i", to, str(process.pid)], capture_output=True, text=True,
                             timeout=PATIENCE_SECONDS, check=False)
        if run.returncode == 0 and "OK" in run.stdout:
            return
        if time.monotonic() > deadline:
            raise Failure(f"callgrind_control: {run.stdout}{run.stderr}")
        time.sleep(0.5)


class Client:
    """So many kept connections, with a request on each at once."""

    def __init__(self, port, stack, target="/hello"):
        self.target = target
        self.connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS) for _ in range(CONNECTIONS)]
        for connection in self.connections:
            stack.callback(connection.close)

    def ask(self, requests, check=None):
        for first in range(0, requests, CONNECTIONS):
            asked = self.connections[:requests - first]
            for index, connection in enumerate(asked):
                connection.request("GET", self.target, headers=HEADERS | {"X-User-Id": f"user-{(first + index) % 10_000}"})
            for connection in asked:
                response = connection.getresponse()
                status, body = response.status, response.read()
                if status != 200 or check is not None and body != check:
                    raise Failure(f"status {status}, {body[:100]!r} under callgrind")


# With Host and X-User-Id the six of users.lua.
HEADERS = {"User-Agent": "weir-load-test/1.0", "Accept": "text/plain,*/*;q=0.8", "Accept-Encoding": "gzip, deflate",
           "Accept-Language": "en-GB,en;q=0.7"}


def executed(path):
    found = re.search(r"^totals: (\d+)", path.read_text(errors="replace"), re.MULTILINE)
    return int(found.group(1)) if found else 0
