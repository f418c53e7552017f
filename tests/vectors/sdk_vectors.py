#!/usr/bin/env python3
"""Asks the vendors' own SDKs where random units land and writes sdk.json beside this file.

    python3 -m venv /tmp/sdk && /tmp/sdk/bin/pip install -r tests/vectors/requirements.txt
    /tmp/sdk/bin/python tests/vectors/sdk_vectors.py

Needs Python 3.11 or newer and `openssl` 3 on the path. Nothing leaves the machine: every SDK gets its flags from
memory, Flipt's from a server on the loopback address.

Each entry of sdk.json has the scheme's parameters under weir's names, the number of steps of the scheme (`of`) and one
position per unit (0 to of - 1, in the order of `units`). `values` in place of `positions` are fractions 0 to 1. Where an
SDK only answers "in or out", flags of all percentages are asked and the position is where the answer turns.
"""

import http.server
import json
import math
import pathlib
import random
import subprocess
import threading
import uuid
from importlib.metadata import version

KEY = "checkout-v2"
SALT = "s1"
UNITS = 300
SIPHASH_KEY = bytes(range(16))


def units():
    """Random ids of the kinds that people use, the same at every run."""
    rng = random.Random(20240229)
    alphabets = ["äöüßéèñçø", "жшщюяйё", "日本語東京中文", "مرحباسلام", "😀🚀🎉👩‍💻", "e\u0301a\u0308\u200d"]
    kinds = [
        lambda: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        lambda: f"user-{rng.randrange(10**6)}",
        lambda: str(rng.randrange(10 ** rng.randrange(1, 18))),
        lambda: f"{rng.choice(['ann', 'bo.b', 'c+tag', 'd_e'])}{rng.randrange(10**4)}@{rng.choice(['example.com', 'mail.test'])}",
        lambda: "".join(rng.choice(rng.choice(alphabets)) for _ in range(rng.randrange(1, 12))),
        lambda: "".join(chr(rng.randrange(0x21, 0x7F)) for _ in range(rng.randrange(1, 40))),
    ]
    found = ["a", "ab", "abc", "abcd", "a b", "A", "a.b-c:d|e", "ünï", "x" * 255]
    while len(found) < UNITS:
        unit = rng.choice(kinds)()
        if unit.strip() and unit not in found:
            found.append(unit)
    return found


def native(units):
    import mmh3

    return "mmh3", 1_000_000, [(mmh3.hash(f"{SALT}.{u}", 0, signed=False) * 1_000_000) >> 32 for u in units]


def siphash(units):
    def one(unit):
        command = ["openssl", "mac", "-macopt", f"hexkey:{SIPHASH_KEY.hex()}", "-macopt", "size:8", "SIPHASH"]
        out = subprocess.run(command, input=f"{SALT}.{unit}".encode(), capture_output=True, check=True).stdout
        return ((int.from_bytes(bytes.fromhex(out.decode().strip()), "little") >> 32) * 1_000_000) >> 32

    return "openssl", 1_000_000, [one(u) for u in units]


def launchdarkly(units, seed=None):
    from ldclient import Context
    from ldclient.impl.evaluator_common import _bucket_context

    return "launchdarkly-server-sdk", None, [_bucket_context(seed, Context.create(u), None, KEY, SALT, None) for u in units]


def unleash(units):
    from yggdrasil_engine.engine import UnleashEngine

    def toggle(percent):
        parameters = {"rollout": str(percent), "stickiness": "userId", "groupId": KEY}
        strategy = {"name": "flexibleRollout", "parameters": parameters, "constraints": []}
        return {"name": f"at-{percent}", "type": "release", "enabled": True, "strategies": [strategy]}

    engine = UnleashEngine()
    engine.take_state(json.dumps({"version": 2, "features": [toggle(p) for p in range(1, 101)]}))
    inside = lambda unit, percent: engine.is_enabled(f"at-{percent}", {"userId": unit}).is_enabled
    return "yggdrasil-engine", 100, [turn(100, lambda k: inside(u, k)) for u in units]


def growthbook(hash_version, of):
    def ask(units):
        from growthbook.core import gbhash

        return "growthbook", of, [round(gbhash(KEY, u, hash_version) * of) for u in units]

    return ask


def flagd(units):
    from openfeature.contrib.tools.flagd.core import FlagdCore
    from openfeature.evaluation_context import EvaluationContext

    of = 10_000
    flag = {
        "state": "ENABLED",
        "defaultVariant": "0",
        "variants": {str(i): i for i in range(of)},
        "targeting": {"fractional": [[str(i), 1] for i in range(of)]},
    }
    core = FlagdCore()
    core.set_flags({"flags": {KEY: flag}})
    ask = lambda unit: core.resolve_integer_value(KEY, -1, EvaluationContext(targeting_key=unit)).value
    return "openfeature-flagd-core", of, [ask(u) for u in units]


def optimizely(units):
    from optimizely.bucketer import BUCKETING_ID_TEMPLATE, Bucketer

    bucketer = Bucketer()
    text = lambda unit: BUCKETING_ID_TEMPLATE.format(bucketing_id=unit, parent_id=KEY)
    return "optimizely-sdk", 10_000, [bucketer._generate_bucket_value(text(u)) for u in units]


def eppo(units):
    import eppo_client
    from eppo_client.assignment_logger import AssignmentLogger
    from eppo_client.config import Config

    of = 10_000
    split = lambda i: {
        "variationKey": str(i),
        "shards": [{"salt": SALT, "ranges": [{"start": i, "end": i + 1}]}],
        "extraLogging": {},
    }
    flag = {
        "key": KEY,
        "enabled": True,
        "variationType": "INTEGER",
        "totalShards": of,
        "variations": {str(i): {"key": str(i), "value": i} for i in range(of)},
        "allocations": [{"key": "a", "rules": [], "doLog": False, "splits": [split(i) for i in range(of)]}],
    }
    flags = {"createdAt": "2024-01-01T00:00:00Z", "format": "SERVER", "environment": {"name": "t"}, "flags": {KEY: flag}}
    config = Config(
        api_key="none",
        base_url="http://127.0.0.1:9",
        assignment_logger=AssignmentLogger(),
        poll_interval_seconds=None,
        initial_configuration=eppo_client.Configuration(flags_configuration=json.dumps(flags).encode()),
    )
    client = eppo_client.init(config)
    return "eppo-server-sdk", of, [client.get_integer_assignment(KEY, u, {}, -1) for u in units]


def statsig(units):
    from statsig.evaluator import _Evaluator
    from statsig.statsig_user import StatsigUser

    passes = _Evaluator._Evaluator__eval_pass_percentage
    evaluator = _Evaluator.__new__(_Evaluator)
    config, rule = SALT.split(".") if "." in SALT else ("config", SALT)

    def inside(unit, hundredths):
        # The SDK compares with percentage x 100 as a float, which may round up past the whole number.
        percentage = hundredths / 100
        if percentage * 100 > hundredths:
            percentage = math.nextafter(percentage, 0)
        asked = {"salt": rule, "idType": "userID", "passPercentage": percentage}
        return passes(evaluator, StatsigUser(unit), asked, {"salt": config})

    return "statsig", 10_000, [turn(10_000, lambda k: inside(u, k)) for u in units]


def flipt(units):
    from flipt_client import FliptClient
    from flipt_client.models import ClientOptions

    # Thresholds of 1 to 100 percent; the flag's answer in namespace `bit-N` is bit N of the first one that matches.
    def flag(bit):
        threshold = lambda p: {"percentage": float(p), "value": bool((p - 1) >> bit & 1)}
        rollout = lambda p: {"type": "THRESHOLD_ROLLOUT_TYPE", "rank": p, "threshold": threshold(p)}
        rollouts = [rollout(p) for p in range(1, 101)]
        base = {"key": KEY, "name": KEY, "description": "", "enabled": True, "type": "BOOLEAN_FLAG_TYPE", "rules": []}
        return base | {"rollouts": rollouts, "createdAt": None, "updatedAt": None}

    class Snapshot(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            namespace = self.path.rsplit("/", 1)[-1]
            body = json.dumps({"namespace": {"key": namespace}, "flags": [flag(int(namespace[4:]))]}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Snapshot)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    clients = [FliptClient(opts=ClientOptions(url=url, namespace=f"bit-{bit}")) for bit in range(7)]
    enabled = lambda bit, unit: clients[bit].evaluate_boolean(flag_key=KEY, entity_id=unit).enabled
    return "flipt-client", 100, [sum(enabled(bit, u) << bit for bit in range(7)) for u in units]


def turn(of, inside):
    """The position of a unit that is inside for all shares k/of above its position and outside below."""
    low, high = 1, of
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if inside(middle) else (middle + 1, high)
    return low - 1


ASKED = [
    ("murmur3", {"salt": SALT}, native),
    ("siphash", {"salt": SALT, "siphash_key": SIPHASH_KEY.hex()}, siphash),
    ("launchdarkly", {"key": KEY, "salt": SALT}, launchdarkly),
    ("launchdarkly", {"key": KEY, "salt": SALT, "seed": "61"}, lambda units: launchdarkly(units, 61)),
    ("unleash", {"key": KEY}, unleash),
    ("growthbook-v1", {"key": KEY}, growthbook(1, 1000)),
    ("growthbook", {"key": KEY}, growthbook(2, 10_000)),
    ("flagd", {"key": KEY}, flagd),
    ("optimizely", {"key": KEY}, optimizely),
    ("eppo", {"salt": SALT}, eppo),
    ("statsig", {"salt": f"config.{SALT}"}, statsig),
    ("flipt", {"key": KEY}, flipt),
]


def main():
    asked = units()
    schemes = []
    for scheme, parameters, ask in ASKED:
        package, of, found = ask(asked)
        if package == "openssl":
            by = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True).stdout.split()
            by = f"openssl {by[1]}"
        else:
            by = f"{package} {version(package)}"
        answers = {"values": found} if of is None else {"of": of, "positions": found}
        assert all(0 <= v <= (of or 1) for v in found), scheme
        schemes.append({"scheme": scheme, "asked": by} | parameters | answers)
        print(scheme, by, found[:4])
    text = "{\n" + f' "units": {json.dumps(asked, ensure_ascii=False)},\n "schemes": [\n'
    text += ",\n".join("  " + json.dumps(entry) for entry in schemes) + "\n ]\n}\n"
    pathlib.Path(__file__).with_name("sdk.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
