"""Programs that a run starts: found, pinned, waited for, ended. Whatever happens, nothing of it is left behind."""

import argparse
import contextlib
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent.parent
REPOSITORY = HERE.parent
START_SECONDS_MAX = 10
STOP_SECONDS_MAX = 10
# Beside the program's own directories, where distributions put daemons.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


class Failure(Exception):
    """The run cannot go on; the text says why."""


def to_the_end(name, work):
    """The exit code of a script: what `work` says, or 1 with the reason."""
    try:
        return work()
    except (Failure, OSError) as failure:
        print(f"{name}: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def end_after(seconds):
    """Whatever hangs, the run is over then, and everything it started with it."""
    def too_late(*_):
        raise Failure(f"not done after {seconds} s")
    def told_to_stop(*_):
        raise KeyboardInterrupt
    signal.signal(signal.SIGALRM, too_late)
    signal.signal(signal.SIGTERM, told_to_stop)
    signal.alarm(int(seconds))


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def names(known):
    """An argument type: some of these names, separated by commas; `all` is every one."""
    def read(text):
        found = [name.strip() for name in text.split(",") if name.strip()]
        if found == ["all"]:
            return list(known)
        unknown = [name for name in found if name not in known]
        if unknown or not found:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown) or 'nothing'}; known are {', '.join(known)}")
        return found
    return read


def weir_binary(options):
    """The weir of `--weir`, or a release build of this checkout."""
    if options.weir:
        path = pathlib.Path(options.weir).resolve()
        if not path.is_file():
            raise Failure(f"there is no {path}")
        return path
    return built(["--bin", "weir"], "weir")


def built(what, name):
    """A release build of one of this checkout's programs."""
    print(f"building {name} (release)", file=sys.stderr)
    done = subprocess.run(["cargo", "build", "--release"] + what, cwd=REPOSITORY, check=False)
    if done.returncode != 0:
        raise Failure("cargo build --release failed")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    return target / "release" / ("examples" if "--example" in what else "") / name


def found(name):
    return shutil.which(name, path=SEARCH_PATH)


def needed(name):
    path = found(name)
    if not path:
        raise Failure(f"{name} is not installed; leave it out with --proxies, or install it")
    return path


def pins(workers):
    """Command prefixes that pin a proxy, and load with upstreams."""
    cores = sorted(os.sched_getaffinity(0))
    if workers > 1 or len(cores) < 2:
        if workers == 1:
            print("only one core: load and proxy share it, compare CPU figures only", file=sys.stderr)
        return [], []
    taskset = needed("taskset")
    return [taskset, "-c", str(cores[0])], [taskset, "-c", str(cores[1])]


def allow_files(count):
    """Lets this process and what it starts open so many files; says how many they may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return count if soft == resource.RLIM_INFINITY else soft


def write(folder, name, text):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def start(command, folder, stack, environment=None):
    """Starts a program in its own process group and sees to its end."""
    folder.mkdir(parents=True, exist_ok=True)
    log = stack.enter_context(open(folder / "output.log", "w+b"))
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                               env=None if environment is None else os.environ | environment)
    process.log = folder / "output.log"
    stack.callback(stop, process)
    return process


def stop(process, patience=None):
    if process.poll() is not None:
        return
    # HAProxy and nginx end their workers with themselves; the group catches what a crash might leave.
    process.terminate()
    try:
        process.wait(patience or STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_ports(count):
    """Free loopback ports; held together until all are known, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until_open(port, process, name, patience=None):
    deadline = time.monotonic() + (patience or START_SECONDS_MAX)
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    output = process.log.read_text(errors="replace").strip()
    raise Failure(f"{name} did not start to listen on port {port}:\n{output}")
