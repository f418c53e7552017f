"""What running programs cost: CPU time, memory, system calls. Processes count with their threads and descendants."""

import contextlib
import os
import pathlib
import re
import signal
import statistics
import subprocess
import time

from .run import Failure, found

# The calls that move bytes, whatever a program likes to move them with.
MOVING = {"read", "readv", "recvfrom", "recvmsg", "write", "writev", "sendto", "sendmsg", "splice", "sendfile"}
ATTACH_SECONDS_MAX = 10


def cpu_us(root):
    """User and system time of a process, its threads and its living descendants, in microseconds."""
    tick_us = 1_000_000 / os.sysconf("SC_CLK_TCK")
    user = system = 0.0
    for pid in family(root):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for task in os.listdir(f"/proc/{pid}/task"):
                fields = stat_fields(f"/proc/{pid}/task/{task}/stat")
                user += int(fields[11]) * tick_us
                system += int(fields[12]) * tick_us
    return user, system


def family(root):
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parents[int(entry)] = int(stat_fields(f"/proc/{entry}/stat")[1])
    members = [root]
    for member in members:
        members.extend(pid for pid, parent in parents.items() if parent == member)
    return members


def stat_fields(path):
    """The fields after the program's name, which may itself hold spaces and brackets: state, ppid, ..."""
    return pathlib.Path(path).read_text().rpartition(")")[2].split()


def memory_kib(root):
    """Resident memory; what the processes of a family share counts once."""
    private, shared = 0, 0
    for pid in family(root):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            sizes = {name: int(kib) for name, kib in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
            own = sizes.get("Private_Clean", 0) + sizes.get("Private_Dirty", 0)
            private += own
            shared = max(shared, sizes.get("Rss", 0) - own)
    return private + shared


def peak_kib(pid):
    """The most memory that one process has had."""
    found_kib = re.search(r"^VmHWM:\s+(\d+) kB$", pathlib.Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found_kib.group(1)) if found_kib else 0


def calls(root, folder, during):
    """System calls of a program while `during` runs: those that move bytes, and all. None without strace."""
    strace = found("strace")
    if not strace:
        during()
        return None
    summary = folder / f"calls-{time.monotonic_ns()}"
    command = [strace, "-c", "-f", "-o", str(summary)]
    for pid in family(root):
        command += ["-p", str(pid)]
    watching = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_until_traced(root, watching)
        during()
    finally:
        watching.send_signal(signal.SIGINT)
        try:
            watching.communicate(timeout=ATTACH_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            watching.kill()
            watching.communicate()
    rows = [line.split() for line in summary.read_text().splitlines()]
    counts = {row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[3].isdigit() and row[-1] != "total"}
    return sum(count for name, count in counts.items() if name in MOVING), sum(counts.values())


def wait_until_traced(root, watching):
    """Until every thread of the family is seen by the tracer."""
    deadline = time.monotonic() + ATTACH_SECONDS_MAX
    while time.monotonic() < deadline and watching.poll() is None:
        traced = []
        for pid in family(root):
            for task in os.listdir(f"/proc/{pid}/task"):
                status = pathlib.Path(f"/proc/{pid}/task/{task}/status").read_text()
                traced.append(not re.search(r"^TracerPid:\s+0$", status, re.MULTILINE))
        if all(traced):
            return
        time.sleep(0.02)
    raise Failure("strace could not attach to a proxy; is another tracer at it, or is tracing forbidden?")


def spread(values, digits):
    """Median with the whole range."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
