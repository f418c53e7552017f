"""What came of a run: tables, bars that hold or not, and the files that are kept."""

import dataclasses
import datetime
import os
import pathlib
import platform
import re
import subprocess

from .run import HERE, REPOSITORY

FOLDER = HERE / "results"


@dataclasses.dataclass
class Verdict:
    """A figure and what it may be at most; without a bar it is only shown."""

    what: str
    value: float
    bar: float | None
    unit: str = ""
    digits: int = 2

    @property
    def holds(self):
        """Judged as it is told: no figure is over its bar by digits that nobody sees."""
        return self.bar is None or round(self.value, self.digits) <= self.bar

    def row(self):
        told = f"{self.value:,.{self.digits}f}{self.unit}"
        bar = "-" if self.bar is None else f"<= {self.bar:,.{self.digits}f}{self.unit}"
        return [self.what, told, bar, "OK" if self.holds else "NOT OK"]


def table(head, rows):
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows])


def verdicts_table(verdicts):
    return table(["figure", "weir", "bar", ""], [verdict.row() for verdict in verdicts])


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def keep(stem, text, plots):
    """Writes results/STEM.md and its plots; returns the paths."""
    FOLDER.mkdir(exist_ok=True)
    paths = [FOLDER / f"{stem}.md"] + [FOLDER / f"{stem}{suffix}.svg" for suffix in plots]
    for path, content in zip(paths, [text, *plots.values()]):
        path.write_text(content)
    return paths


def version(name, program, built_here=False):
    """What a program says of itself, and of weir which commit it is, or may be."""
    flag = {"haproxy": "-v", "nginx": "-v", "traefik": "version"}.get(name, "--version")
    run = subprocess.run([str(program), flag], capture_output=True, text=True, timeout=30, check=False)
    lines = [line.strip() for line in (run.stdout + run.stderr).strip().splitlines() if line.strip()]
    first = lines[0] if lines else "version unknown"
    # Paths of this machine are nobody's business.
    first = first.removeprefix(str(program)).strip()
    if name != "weir":
        return f"{name}: {first}"
    return f"{name}: {first}{commit() if built_here else f', a given binary; the checkout is{commit()}'}"


def commit():
    run = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return f" at {run.stdout.strip()}" if run.returncode == 0 else ""


def machine():
    names = re.findall(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{os.cpu_count()} cores, {names[0] if names else platform.machine()}, Linux {platform.release()}"
