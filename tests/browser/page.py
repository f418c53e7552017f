"""The built-in page in a real browser, driven by what a person does.

    python3 tests/browser/page.py [WEIR] [--pictures FOLDER] [--strict]

WEIR is the binary, target/debug/weir unless told. Times are printed; only with --strict, for an optimised binary on a machine
that does nothing else, do they decide. Without a browser it says so and ends with 77.
"""

import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

# Leaves nothing beside the sources.
sys.dont_write_bytecode = True
import chrome  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
arguments = sys.argv[1:]
STRICT = "--strict" in arguments
PICTURES = arguments[arguments.index("--pictures") + 1] if "--pictures" in arguments else None
WEIR = os.path.abspath(next((one for one in arguments if not one.startswith("--") and one != PICTURES), os.path.join(ROOT, "target/debug/weir")))
TOKEN, READ_TOKEN = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
DESKTOP, PHONE = (1440, 900), (390, 844)


def timed(what, seconds, most):
    print(f"  {what}: {seconds:.2f} s")
    assert not STRICT or seconds <= most, f"{what} took {seconds:.2f} s, it may take {most} s"


class Origin(http.server.BaseHTTPRequestHandler):
    """Answers everything; the server's `broken` makes it fail."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"hello\n"
        self.send_response(500 if self.server.broken else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def origin():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    server.daemon_threads, server.broken = True, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def running(command, cwd):
    """A process and its lines, ended in order."""
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)
    lines = []
    # One by one, so that who waits sees each.
    reader = threading.Thread(target=lambda: [lines.append(line) for line in process.stdout], daemon=True)
    reader.start()
    try:
        yield lines
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(chrome.DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
        reader.join(chrome.DEADLINE_S)


def said(lines, pattern):
    def look():
        return re.search(pattern, "".join(lines))

    chrome.until(look, f"{pattern} in what it prints: {''.join(lines)[-2000:]}")
    return look().group(1)


@contextlib.contextmanager
def traffic(address):
    """Some users, over and over, until the end."""
    over = threading.Event()

    def ask():
        unit = 0
        while not over.is_set():
            unit += 1
            request = urllib.request.Request(f"http://{address}/", headers={"x-user-id": f"user-{unit % 200}"})
            with contextlib.suppress(OSError):
                urllib.request.urlopen(request, timeout=10).read()
            over.wait(0.005)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join(chrome.DEADLINE_S)


def picture(page, name):
    if PICTURES:
        os.makedirs(PICTURES, exist_ok=True)
        for (width, height), phone in ((DESKTOP, False), (PHONE, True)):
            for dark in (False, True):
                page.size(width, height, dark, phone)
                page.run("new Promise((then) => requestAnimationFrame(() => requestAnimationFrame(then)))")
                page.picture(os.path.join(PICTURES, f"{name}-{width}{'-dark' if dark else ''}.png"), whole=True)
        page.size(*DESKTOP)


def fits(page, what):
    """No sideways scroll on a phone."""
    page.size(*PHONE, phone=True)
    page.run("new Promise((then) => requestAnimationFrame(() => requestAnimationFrame(then)))")
    wide = page.run("document.documentElement.scrollWidth")
    assert wide <= PHONE[0], f"{what} is {wide} px wide on a phone of {PHONE[0]} px"
    page.size(*DESKTOP)


def no_errors(page, what):
    assert not page.errors, f"{what}: the console says {page.errors}"


def demo(page, folder):
    """The demo: both arms' charts move; when the canary is broken that is seen, with its reason."""
    with running([WEIR, "demo", "--duration", "10m"], folder) as lines:
        new = said(lines, r"curl -X POST (http://\S+)/demo/failing")
        named = re.search(r"WEIR_ADMIN=(\S+)", "".join(lines))
        page.open(f"{named.group(1) if named else 'http://127.0.0.1:9900'}/#/rollout/demo")
        line = "document.querySelector('#chart-rps .plot .line.{}').getAttribute('d')"
        arms = {arm: page.wait(line.format(arm), f"a curve of {arm}") for arm in ("stable", "canary")}
        for arm, before in arms.items():
            page.wait(f"{line.format(arm)} !== {json.dumps(before)}", f"the curve of {arm} moves")
        fits(page, "the demo's rollout")
        picture(page, "demo")
        urllib.request.urlopen(urllib.request.Request(f"{new}/demo/failing", method="POST"), timeout=10).read()
        # From the moment that weir wrote it down to the moment that it is read on the page.
        trouble = (
            "(() => { const found = [...document.querySelectorAll('.trail li')].find((one) => /^(trip|rollback)$/.test(one.querySelector('b').textContent) "
            "&& one.querySelector('.reason')); return found && { late: Date.now() - Date.parse(found.querySelector('time').dateTime), why: found.querySelector('.reason').textContent }; })()"
        )
        found = page.wait(trouble, "what became of the broken canary")
        timed(f"the trip was on the page ({found['why']})", found["late"] / 1000, 2)
        assert re.search(r"\d", found["why"]), found
        page.wait("document.querySelector('.chip.bad')", "the state in red")
        page.wait("document.querySelector('.mark.trip, .mark.rollback')", "the mark in the charts")
        picture(page, "trip")
        no_errors(page, "the demo")


CONFIG = """state_dir = "state"
drain_timeout = "1s"
[[listeners]]
address = "127.0.0.1:{listener}"
[admin]
address = "127.0.0.1:{admin}"
token_file = "token"
read_token_file = "read"
[upstreams.legacy]
endpoints = ["127.0.0.1:{legacy}"]
[upstreams.new]
endpoints = ["127.0.0.1:{new}"]
[rollouts.chat]
unit = ["header:x-user-id"]
stable = {{ upstream = "legacy" }}
canary = {{ upstream = "new" }}
[rollouts.chat.cohorts.beta]
users = ["user-1", "user-2"]
[rollouts.chat.shadow]
share = "100%"
diff = {{ share = "100%" }}
[[rollouts.chat.stages]]
name = "tenth"
weight = "10%"
shadow = "100%"
min_duration = "1h"
cohorts = ["beta"]
gates = ["error_rate <= stable + 0.5%"]
[[rollouts.chat.stages]]
name = "half"
weight = "50%"
min_duration = "1h"
approval = true
[[rollouts.chat.triggers]]
name = "errors"
when = "error_rate > 20%"
for = "5m"
action = "pause"
"""


def act(page, act_id, reason, shows, **fields):
    """One action through its dialog, until the page shows what came of it."""
    button = json.dumps(f"#{act_id}")
    page.wait(f"document.querySelector({button})", f"the button {act_id}")
    page.run(f"document.querySelector({button}).click()")
    page.wait("document.querySelector('dialog[open] #consequence').textContent.length > 20", f"what {act_id} will do")
    # Without a reason it does not go on.
    page.run("document.querySelector('dialog [type=submit]').click()")
    assert page.run("document.querySelector('dialog').open"), f"{act_id} went on without a reason"
    for name, value in {"reason": reason, **fields}.items():
        kind = "checked = true" if value is True else f"value = {json.dumps(value)}"
        page.run(f"document.querySelector('dialog [name={name}]').{kind}")
    page.run("document.querySelector('dialog [type=submit]').click()")
    page.wait("!document.querySelector('dialog').open", f"{act_id} is taken")
    page.wait(shows, f"what came of {act_id}")
    page.wait(f"document.querySelector('.trail').textContent.includes({json.dumps(reason)})", f"the reason of {act_id} in the trail")


def log_in(page, token, role):
    page.wait("document.querySelector('[data-token]')", "the question for a token")
    page.run("document.querySelector('[data-token]').click()")
    page.run(f"document.querySelector('dialog [name=token]').value = {json.dumps(token)}")
    page.run("document.querySelector('dialog [type=submit]').click()")
    page.wait(f"document.getElementById('role').textContent.includes({json.dumps(role)})", role)


def chip(text):
    return f"document.querySelector('.title .chip').textContent === {json.dumps(text)}"


def actions(page, folder):
    """Every action through its dialog, refused without the role; the connection lost and found."""
    with origin() as legacy, origin() as new:
        places = {"listener": 0, "admin": 0, "legacy": legacy.server_port, "new": new.server_port}

        def write():
            with open(os.path.join(folder, "weir.toml"), "w") as file:
                file.write(CONFIG.format(**places))

        for name, text in (("token", TOKEN), ("read", READ_TOKEN)):
            with open(os.path.join(folder, name), "w") as file:
                file.write(text)
        write()
        with running([WEIR, "serve", "-c", "weir.toml"], folder) as lines:
            admin = said(lines, r"admin on (http://\S+)")
            listener = said(lines, r"listening on (\S+)")
            places["admin"], places["listener"] = admin.rsplit(":", 1)[1], listener.rsplit(":", 1)[1]
            with traffic(listener):
                page.open(f"{admin}/#/rollout/chat")
                log_in(page, READ_TOKEN, "may look only")
                page.wait("document.querySelector('.chart')", "the charts")
                no_errors(page, "looking")
                assert page.run("document.querySelectorAll('[data-act]').length") == 0, "who may only look is offered to act"
                for verb in ("pause", "resume", "promote", "approve", "weight", "rollback", "kill", "revive"):
                    post = "fetch('/api/v1/rollouts/chat/%s', { method: 'POST', body: '{}', headers: { 'content-type': 'application/json', authorization: 'Bearer %s' } }).then((it) => it.status)"
                    assert page.run(post % (verb, READ_TOKEN)) == 403, f"{verb} with the token to look"
                    assert page.run(post % (verb, "wrong")) == 401, f"{verb} with a wrong token"
                page.errors.clear()
                assert TOKEN not in page.run("location.href + document.cookie")

                page.run("document.querySelector('[data-forget]').click()")
                log_in(page, TOKEN, "may act")
                page.wait("document.querySelector('.chart')", "the charts")
                page.wait("document.querySelector('#s-shadow').parentElement.innerText.includes('samples')", "the answers compared")
                act(page, "act-pause", "a pause for lunch", chip("paused"), actor="ana")
                page.wait("document.querySelector('.trail').textContent.includes('by ana')", "who it was")
                act(page, "act-resume", "lunch is over", chip("running"))
                act(page, "act-weight", "a careful start", "document.querySelector('.facts dd').textContent === '3%'", weight="3%")
                act(page, "cohort-kill-beta", "beta complains", "document.querySelector('#cohort-revive-beta')")
                act(page, "cohort-revive-beta", "beta is happy", "document.querySelector('#cohort-kill-beta')")
                act(page, "act-kill", "smoke", chip("killed"))
                act(page, "act-revive", "no fire", chip("running"))
                act(page, "act-promote", "we are in a hurry", "document.querySelector('.plan .here b').textContent === 'half'", force=True)
                act(page, "act-approve", "I looked at it", "!document.querySelector('#act-approve')")
                act(page, "act-rollback", "better not", chip("rolled back"))
                act(page, "act-revive", "after all", chip("running"))
                # What weir refuses is said where it was asked.
                page.run("document.querySelector('#act-weight').click()")
                page.run("document.querySelector('dialog [name=weight]').value = '90%'; document.querySelector('dialog [name=reason]').value = 'too much'")
                page.run("document.querySelector('dialog [type=submit]').click()")
                page.wait("document.querySelector('dialog [role=alert]').textContent.length > 10", "why not")
                page.run("document.querySelector('dialog [data-close]').click()")
                assert all("409" in one for one in page.errors), page.errors
                page.errors.clear()
                page.run("document.getElementById('unit').value = 'user-1'; document.querySelector('#explain button').click()")
                page.wait("/user-1 gets (stable|canary)/.test(document.body.innerText)", "what it says of a unit")
                for key in ("24h", "rollout", "15m"):
                    page.run(f"document.querySelector('[data-range=\"{key}\"]').click()")
                    page.wait(f"document.querySelector('[data-range=\"{key}\"][aria-pressed=true]') && document.querySelector('.chart')", key)
                fits(page, "a rollout")
                picture(page, "rollout")
                no_errors(page, "acting")
                mistakes(page)
        page.wait("document.getElementById('alarm').textContent.includes('is lost')", "that the connection is lost")
        picture(page, "lost")
        write()
        with running([WEIR, "serve", "-c", "weir.toml"], folder):
            page.wait("document.getElementById('link').textContent === 'live' && !document.getElementById('alarm').textContent", "that it is found again")
            page.run("location.hash = '#/'")
            page.wait("document.querySelector('.glance tbody tr')", "the overview")
            fits(page, "the overview")
    # Nothing was there for a while, as it should be.
    assert all("ERR_CONNECTION" in one or "ERR_INCOMPLETE" in one or "ERR_EMPTY" in one for one in page.errors), page.errors


def mistakes(page):
    """What a person who cannot see or point would stumble over."""
    found = page.run(
        "(() => { const wrong = []; const ids = [...document.querySelectorAll('[id]')].map((one) => one.id);"
        "ids.filter((id, place) => ids.indexOf(id) !== place).forEach((id) => wrong.push('twice: ' + id));"
        "document.querySelectorAll('button, a').forEach((one) => one.textContent.trim() || wrong.push('unnamed ' + one.outerHTML));"
        "document.querySelectorAll('input, textarea').forEach((one) => one.labels?.length || wrong.push('no label: ' + one.id));"
        "document.querySelectorAll('[aria-labelledby]').forEach((one) => one.getAttribute('aria-labelledby').split(' ').forEach((id) => document.getElementById(id) || one.closest('dialog') || wrong.push('no ' + id)));"
        "document.querySelectorAll('svg[role=img]').forEach((one) => one.querySelector('title') && one.querySelector('desc').textContent || wrong.push('a chart without words'));"
        "for (const landmark of ['header', 'nav', 'main', 'h1', '[role=status]', '[role=alert]']) document.querySelector(landmark) || wrong.push('no ' + landmark);"
        "return wrong; })()"
    )
    assert not found, found


def many(page, folder):
    """Fifty rollouts with a day of history."""
    names = [f"service-{number:02}" for number in range(50)]
    with origin() as legacy:
        tables = "".join(
            f'[[routes]]\nname = "{name}"\nmatch = {{ path_prefix = "/{name}" }}\nupstream = "legacy"\nrollouts = ["{name}"]\n'
            f'[rollouts.{name}]\nunit = ["header:x-user-id"]\nstable = {{ upstream = "legacy" }}\ncanary = {{ upstream = "legacy" }}\n'
            f'[[rollouts.{name}.stages]]\nname = "tenth"\nweight = "10%"\nmin_duration = "48h"\ngates = ["error_rate <= stable + 0.5%", "p95 < 1.2 * stable"]\n'
            f'[[rollouts.{name}.stages]]\nname = "all"\nweight = "100%"\nmin_duration = "48h"\n'
            f'[[rollouts.{name}.triggers]]\nname = "errors"\nwhen = "error_rate > 5%"\nfor = "5m"\naction = "rollback"\n'
            for name in names
        )
        with open(os.path.join(folder, "weir.toml"), "w") as file:
            file.write(
                'state_dir = "state"\ndrain_timeout = "1s"\n[[listeners]]\naddress = "127.0.0.1:0"\n[admin]\naddress = "127.0.0.1:0"\n'
                f'[upstreams.legacy]\nendpoints = ["127.0.0.1:{legacy.server_port}"]\n{tables}'
            )
        with running([WEIR, "serve", "-c", "weir.toml"], folder) as lines:
            listener = said(lines, r"listening on (\S+)")
            for unit in range(60):
                request = urllib.request.Request(f"http://{listener}/{names[0]}", headers={"x-user-id": f"user-{unit}"})
                urllib.request.urlopen(request, timeout=10).read()
            said(lines, r"(admin on)")
        a_day(os.path.join(folder, "state", "weir-history.db"))
        with running([WEIR, "serve", "-c", "weir.toml"], folder) as lines:
            admin = said(lines, r"admin on (http://\S+)")
            begun = time.monotonic()
            page.open(f"{admin}/")
            page.wait("document.querySelectorAll('.glance tbody tr').length === 50", "fifty rollouts")
            timed("fifty rollouts were there", time.monotonic() - begun, 1)
            fits(page, "fifty rollouts")
            picture(page, "many")
            page.run(f"location.hash = '#/rollout/{names[0]}'")
            page.wait("document.querySelector('[data-range=\"24h\"]')", "the rollout")
            begun = time.monotonic()
            page.run("document.querySelector('[data-range=\"24h\"]').click()")
            page.wait("document.querySelector('[data-range=\"24h\"][aria-pressed=true]') && document.querySelector('.chart')", "a day of history")
            timed("a day of it was drawn", time.monotonic() - begun, 1)
            history = page.run(f"fetch('/api/v1/rollouts/{names[0]}/history?range=24h').then((it) => it.json()).then((it) => it.points.length)")
            assert 100 < history <= 200, f"{history} points of a day"
            no_errors(page, "fifty rollouts")


def a_day(path):
    """Lays a day of minutes under what was kept: every rollout as busy as the first one was."""
    history = sqlite3.connect(path)
    numbers = [number for (number,) in history.execute("SELECT id FROM names")]
    assert len(numbers) == 50, numbers
    # A row's place: number of the name, tier, slot, part; see src/control/archive/file.rs.
    place = lambda number, tier, slot: number << 46 | tier << 44 | slot << 10
    busiest = "SELECT visit, entered_ms, body FROM samples WHERE place >= ? ORDER BY length(body) DESC LIMIT 1"
    own = history.execute("SELECT visit, entered_ms, body FROM samples WHERE place < ? ORDER BY place DESC LIMIT 1", [place(1, 0, 0)]).fetchone()
    sample = history.execute(busiest, [place(1, 0, 0)]).fetchone()
    now, minutes = int(time.time() * 1000), 24 * 60
    history.execute("DELETE FROM samples")
    for number, row in [(0, own), *((number, sample) for number in numbers)]:
        rows = [(place(number, 1, slot), now - (minutes - slot) * 60_000, 60_000) for slot in range(minutes)]
        # The next slot of the finest tier follows the last minute.
        rows.append((place(number, 0, minutes * 6), now + 10, 10))
        history.executemany("INSERT INTO samples (place, visit, entered_ms, ended_ms, span_ms, body) VALUES (?, ?, ?, ?, ?, ?)",
                            [(at, row[0], row[1], ended, span, row[2]) for at, ended, span in rows])
    history.commit()
    history.close()


def main():
    if not chrome.find():
        print("no Chromium is on the path")
        return 77
    page = chrome.Chrome()
    try:
        page.size(*DESKTOP)
        for check in (actions, many, demo):
            folder = tempfile.mkdtemp(prefix="weir-page-")
            print(check.__doc__)
            page.open("about:blank")
            page.wait("location.href === 'about:blank'", "an empty page")
            page.errors.clear()
            try:
                check(page, folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        page.close()
    print("the page does what it should")
    return 0


if __name__ == "__main__":
    sys.exit(main())
