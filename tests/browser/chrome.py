"""A headless Chromium over its DevTools protocol: one page, its errors, waits for events. Python's own library is all it needs."""

import base64
import json
import os
import secrets
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import urllib.request

# Far beyond what a loaded machine needs, so that only a missing event fails a test.
DEADLINE_S = 60


def find():
    """The browser, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


class Socket:
    """A WebSocket of the client's side: text there and back."""

    def __init__(self, url):
        host, path = url.removeprefix("ws://").split("/", 1)
        name, port = host.rsplit(":", 1)
        self.stream = socket.create_connection((name, int(port)), timeout=DEADLINE_S)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self.stream.sendall(
            f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.rest = b""
        while b"\r\n\r\n" not in self.rest:
            self.rest += self.stream.recv(65536)
        head, self.rest = self.rest.split(b"\r\n\r\n", 1)
        assert b" 101 " in head, head

    def send(self, text):
        body = text.encode()
        size = len(body)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size) if size < 65536 else b"\xff" + struct.pack("!Q", size)
        # A mask of zeros is a mask.
        self.stream.sendall(b"\x81" + length + b"\0\0\0\0" + body)

    def take(self, count):
        while len(self.rest) < count:
            more = self.stream.recv(1 << 20)
            if not more:
                raise ConnectionError("the browser is gone")
            self.rest += more
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def receive(self):
        message = b""
        while True:
            first, second = self.take(2)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", self.take(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", self.take(8))
            message += self.take(size)
            if first & 0x80 and first & 0x0F in (0, 1):
                return message.decode()


class Chrome:
    """One page in a browser of its own."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="weir-browser-")
        arguments = ["--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
        # A container has neither its own user for a sandbox nor a large /dev/shm; what is opened is our own page.
        arguments += ["--no-sandbox", "--disable-dev-shm-usage", "--remote-debugging-port=0", f"--user-data-dir={self.folder}", "about:blank"]
        self.process = subprocess.Popen([find(), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = os.path.join(self.folder, "DevToolsActivePort")
        until(lambda: os.path.exists(port_file) and open(port_file).read().count("\n") >= 1, "the browser's port")
        self.port = open(port_file).read().split("\n")[0]
        targets = json.load(urllib.request.urlopen(f"http://127.0.0.1:{self.port}/json/list", timeout=DEADLINE_S))
        self.socket = Socket(next(one["webSocketDebuggerUrl"] for one in targets if one["type"] == "page"))
        self.last, self.errors = 0, []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self):
        self.process.terminate()
        self.process.wait(DEADLINE_S)
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, method, **parameters):
        self.last += 1
        self.socket.send(json.dumps({"id": self.last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.receive())
            if message.get("id") == self.last:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.hear(message)

    def hear(self, message):
        """Whatever the browser would print in red."""
        about = message.get("params", {})
        if message["method"] == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif message["method"] == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning"):
            self.errors.append(str([one.get("value") or one.get("description") for one in about["args"]]))
        elif message["method"] == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")

    def size(self, width, height, dark=False, phone=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url):
        self.call("Page.navigate", url=url)

    def run(self, script):
        """The value of an expression in the page; promises are waited for."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails'].get('exception', {}).get('description')}")
        return found["result"].get("value")

    def wait(self, condition, what):
        """Until an expression in the page holds: looked at with every frame that the page draws, at least ten times a second."""
        script = (
            "new Promise((done) => { const end = performance.now() + %d; const look = () => { let found = false; "
            "try { found = (%s); } catch { found = false; } if (found) return done(found instanceof Node ? true : found); "
            "if (performance.now() > end) return done(null); setTimeout(look, 50); }; look(); })" % (DEADLINE_S * 1000, condition)
        )
        found = self.run(script)
        if not found:
            text = self.run("document.body.innerText.slice(0, 1500)")
            raise AssertionError(f"not within {DEADLINE_S} s: {what}\n{text}\nerrors: {self.errors}")
        return found

    def picture(self, path, whole=False):
        more = {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            more = {"captureBeyondViewport": True, "clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("Page.captureScreenshot", format="png", **more)["data"]))


def until(condition, what):
    """For what cannot announce itself."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {DEADLINE_S} s: {what}")
        time.sleep(0.02)
