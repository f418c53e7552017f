"""The proxies, each set up to do the same work: sticky 90/10 split of users, kept-alive connections on both sides, no access log.

Every config is what somebody who knows that proxy would write for the work, and nothing besides. HAProxy, nginx and Envoy
split by a hash of the user as weir does. Traefik and Caddy have no such split, so that their rules look at the user's last
digit, which is a tenth of the users as well.
"""

import contextlib
import dataclasses
import http.client
import pathlib
import shutil
import ssl
import subprocess
import time

from .run import START_SECONDS_MAX, Failure, found, free_ports, needed, start, wait_until_open, write

CANARY_SHARE = 0.10
USERS_CHECKED = 2000
# Five standard deviations of 2,000 draws at 10 % are 3.4 points; a proxy outside of that does not split 90/10.
SHARE_TOLERANCE = 0.034
ARM_OF_BODY = {b"Hello, stable": "stable", b"Hello, canary": "canary"}
BIG_BYTES = 1024 * 1024
TITLES = {"weir": "weir", "haproxy": "HAProxy", "nginx": "nginx", "envoy": "Envoy", "traefik": "Traefik", "caddy": "Caddy"}


@dataclasses.dataclass
class Shape:
    """What a mode asks of every proxy."""

    workers: int = 1
    # Certificate and key; None for plain text.
    tls: tuple[pathlib.Path, pathlib.Path] | None = None
    h2: bool = False
    # What carries the user: "header" (X-User-Id) or "query" (user).
    unit: str = "header"
    # Client connections that must be possible.
    connections: int = 4000
    # More lines of weir's rollout.
    weir: str = ""


class Proxy:
    """One running proxy: where it listens and what it has cost so far."""

    def __init__(self, name, port, process):
        self.name, self.port, self.process = name, port, process
        self.visits = []


def installed():
    """The proxies that are there, weir first."""
    return ["weir"] + [name for name in CONFIGURE if name != "weir" and found(name)]


def start_upstreams(nginx, folder, pin, stack):
    """Both upstreams in one nginx: `/hello` names the arm, `/big` is a body of 1 MiB."""
    stable, canary = free_ports(2)
    place = folder / "upstreams"
    place.mkdir(parents=True, exist_ok=True)
    (place / "big").write_bytes(bytes(range(256)) * (BIG_BYTES // 256))
    # Its worker may run as somebody else.
    for path in (folder, place, place / "big"):
        path.chmod(0o755)
    servers = "".join(
        f"""
    server {{
        listen 127.0.0.1:{port} reuseport backlog=4096;
        location / {{ default_type text/plain; return 200 "{body.decode()}"; }}
        location = /big {{ root {place}; }}
    }}"""
        for port, body in zip((stable, canary), ARM_OF_BODY)
    )
    path = write(place, "nginx.conf", nginx_frame(1, "\n    sendfile on;" + servers))
    process = start(pin + [nginx, "-p", str(path.parent), "-c", str(path)], path.parent, stack)
    for port in (stable, canary):
        wait_until_open(port, process, "upstream")
    return stable, canary


def start_proxy(name, program, shape, upstreams, folder, pin, stack):
    (port,) = free_ports(1)
    place = folder / name
    if place.exists():
        shutil.rmtree(place)
    arguments, environment = CONFIGURE[name](place, port, upstreams, shape)
    process = start(pin + [str(program)] + arguments, place, stack, environment)
    wait_until_open(port, process, name)
    proxy = Proxy(name, port, process)
    wait_until_routed(proxy, shape)
    return proxy


def wait_until_routed(proxy, shape):
    """Until it answers as an upstream does: some listen before they have read their rules."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if (curl_status if shape.h2 else status)(proxy, shape) == 200:
                return
        if time.monotonic() > deadline:
            raise Failure(f"{proxy.name} does not answer:\n{proxy.process.log.read_text(errors='replace').strip()[-2000:]}")
        time.sleep(0.05)


def status(proxy, shape):
    with contextlib.closing(client(proxy.port, shape)) as connection:
        target, headers = asked("user-1", shape)
        connection.request("GET", target, headers=headers)
        return connection.getresponse().status


def curl_status(proxy, shape):
    target, _ = asked("user-1", shape)
    command = [needed("curl"), "--silent", "--insecure", "--http2", "--output", "/dev/null", "--write-out", "%{http_code}",
               f"https://127.0.0.1:{proxy.port}{target}"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return int(run.stdout or 0)


def certificate(folder):
    """A P-256 key and a certificate that it signed itself."""
    folder.mkdir(parents=True, exist_ok=True)
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = [needed("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "7",
               "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise Failure(f"openssl made no certificate:\n{made.stderr}")
    for path in (folder, cert, key):
        path.chmod(0o755)
    # HAProxy wants both in one file.
    (folder / "both.pem").write_text(cert.read_text() + key.read_text())
    return cert, key


def configure_weir(folder, port, upstreams, shape):
    stable, canary = upstreams
    tls = f'tls = {{ cert = "{shape.tls[0]}", key = "{shape.tls[1]}" }}' if shape.tls else ""
    unit = "header:x-user-id" if shape.unit == "header" else "query:user"
    path = write(folder, "weir.toml", f"""
state_dir = "state"
workers = {shape.workers}

[[listeners]]
address = "127.0.0.1:{port}"
protocols = ["{"h2" if shape.h2 else "http/1.1"}"]
{tls}

[admin]
address = "127.0.0.1:0"

[upstreams.stable]
endpoints = ["127.0.0.1:{stable}"]
[upstreams.canary]
endpoints = ["127.0.0.1:{canary}"]

[rollouts.bench]
unit = ["{unit}"]
weight = "10%"
stable = {{ upstream = "stable" }}
canary = {{ upstream = "canary" }}
{shape.weir}

# All clients of a load test have one address.
[limits]
# As nginx below: the generators do not follow a connection that is closed behind its last allowed request.
requests_per_connection = 1_000_000_000
max_connections_per_ip = {shape.connections}
""")
    return ["serve", "-c", str(path)], None


def configure_haproxy(folder, port, upstreams, shape):
    stable, canary = upstreams
    unit = "req.hdr(x-user-id)" if shape.unit == "header" else "url_param(user)"
    pem = shape.tls[0].parent / "both.pem" if shape.tls else None
    tls = f" ssl crt {pem} ssl-min-ver TLSv1.3 alpn {'h2' if shape.h2 else 'http/1.1'}" if shape.tls else ""
    path = write(folder, "haproxy.cfg", f"""
global
    nbthread {shape.workers}
    maxconn {shape.connections}

defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 15s
    timeout http-keep-alive 60s
    http-reuse always
    option forwardfor

frontend front
    bind 127.0.0.1:{port} backlog 4096{tls}
    use_backend canary if {{ {unit},crc32(1),mod(100) lt 10 }}
    default_backend stable

backend stable
    server one 127.0.0.1:{stable} pool-purge-delay 60s
backend canary
    server one 127.0.0.1:{canary} pool-purge-delay 60s
""")
    return ["-f", str(path), "-db"], None


def configure_nginx(folder, port, upstreams, shape):
    stable, canary = upstreams
    groups = "".join(
        f"""
    upstream {arm} {{
        server 127.0.0.1:{upstream};
        keepalive 256;
        keepalive_requests 1000000000;
    }}"""
        for arm, upstream in (("stable", stable), ("canary", canary))
    )
    tls = f"""
        ssl_certificate {shape.tls[0]};
        ssl_certificate_key {shape.tls[1]};
        ssl_protocols TLSv1.3;""" if shape.tls else ""
    flags = (" ssl" if shape.tls else "") + (" http2" if shape.h2 else "")
    path = write(folder, "nginx.conf", nginx_frame(shape.workers, f"""
    split_clients "{"$http_x_user_id" if shape.unit == "header" else "$arg_user"}" $arm {{
        10% canary;
        *   stable;
    }}{groups}
    server {{
        listen 127.0.0.1:{port}{flags} reuseport backlog=4096;{tls}
        location / {{
            proxy_pass http://$arm;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_connect_timeout 2s;
            proxy_read_timeout 15s;
            proxy_max_temp_file_size 0;
        }}
    }}""", max(4096, shape.connections)))
    return ["-p", str(folder), "-c", str(path)], None


def configure_envoy(folder, port, upstreams, shape):
    stable, canary = upstreams
    policy = ('header: { header_name: x-user-id }' if shape.unit == "header" else 'query_parameter: { name: user }')
    tls = f"""
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: ["{"h2" if shape.h2 else "http/1.1"}"]
            tls_params: {{ tls_minimum_protocol_version: TLSv1_3 }}
            tls_certificates: [{{ certificate_chain: {{ filename: "{shape.tls[0]}" }}, private_key: {{ filename: "{shape.tls[1]}" }} }}]""" if shape.tls else ""
    endpoints = "".join(
        f"""
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {upstream} }} }} }}
          load_balancing_weight: {weight}"""
        for upstream, weight in ((stable, 90), (canary, 10))
    )
    path = write(folder, "envoy.yaml", f"""
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          codec_type: {"HTTP2" if shape.h2 else "HTTP1"}
          use_remote_address: true
          generate_request_id: false
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{ prefix: "/" }}
                route:
                  cluster: arms
                  timeout: 15s
                  hash_policy: [{{ {policy} }}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}{tls}
  clusters:
  - name: arms
    connect_timeout: 2s
    type: STATIC
    lb_policy: MAGLEV
    load_assignment:
      cluster_name: arms
      endpoints:
      - lb_endpoints:{endpoints}
""")
    return ["-c", str(path), "--concurrency", str(shape.workers), "--disable-hot-restart", "--log-level", "error"], None


def configure_traefik(folder, port, upstreams, shape):
    stable, canary = upstreams
    canaries = "HeaderRegexp(`X-User-Id`, `3$`)" if shape.unit == "header" else "QueryRegexp(`user`, `3$`)"
    tls = "\n      tls: {}" if shape.tls else ""
    certificates = f"""
tls:
  options: {{ default: {{ minVersion: VersionTLS13, alpnProtocols: ["{"h2" if shape.h2 else "http/1.1"}"] }} }}
  stores: {{ default: {{ defaultCertificate: {{ certFile: "{shape.tls[0]}", keyFile: "{shape.tls[1]}" }} }} }}""" if shape.tls else ""
    path = write(folder, "routes.yaml", f"""
http:
  routers:
    canary:
      rule: "{canaries}"
      priority: 2
      service: canary{tls}
    stable:
      rule: "PathPrefix(`/`)"
      priority: 1
      service: stable{tls}
  serversTransports:
    kept: {{ maxIdleConnsPerHost: 1024 }}
  services:
    stable: {{ loadBalancer: {{ serversTransport: kept, servers: [{{ url: "http://127.0.0.1:{stable}" }}] }} }}
    canary: {{ loadBalancer: {{ serversTransport: kept, servers: [{{ url: "http://127.0.0.1:{canary}" }}] }} }}{certificates}
""")
    return [f"--entrypoints.web.address=127.0.0.1:{port}", f"--providers.file.filename={path}", "--log.level=ERROR",
            "--global.checknewversion=false", "--global.sendanonymoususage=false"], {"GOMAXPROCS": str(shape.workers)}


def configure_caddy(folder, port, upstreams, shape):
    stable, canary = upstreams
    canaries = "header_regexp X-User-Id 3$" if shape.unit == "header" else "vars_regexp {query.user} 3$"
    tls = f"\n    tls {shape.tls[0]} {shape.tls[1]} {{\n        protocols tls1.3\n    }}" if shape.tls else ""
    kept = "{\n            transport http {\n                keepalive_idle_conns_per_host 1024\n            }\n        }"
    path = write(folder, "Caddyfile", f"""
{{
    admin off
    auto_https off
    persist_config off
    default_sni localhost
    log {{
        level ERROR
    }}
    servers {{
        protocols {"h1 h2" if shape.h2 else "h1"}
    }}
}}
{"https" if shape.tls else "http"}://:{port} {{
    bind 127.0.0.1{tls}
    @canary {canaries}
    handle @canary {{
        reverse_proxy 127.0.0.1:{canary} {kept}
    }}
    handle {{
        reverse_proxy 127.0.0.1:{stable} {kept}
    }}
}}
""")
    environment = {"GOMAXPROCS": str(shape.workers), "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    return ["run", "--config", str(path), "--adapter", "caddyfile"], environment


CONFIGURE = {"weir": configure_weir, "haproxy": configure_haproxy, "nginx": configure_nginx, "envoy": configure_envoy,
             "traefik": configure_traefik, "caddy": configure_caddy}


def nginx_frame(workers, inner, connections=4096):
    """An nginx configuration that keeps all its files in its own folder."""
    temporary = "".join(
        f"\n    {kind}_temp_path tmp-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
daemon off;
worker_processes {workers};
pid nginx.pid;
error_log stderr crit;
events {{ worker_connections {connections}; }}
http {{
    access_log off;{temporary}
    keepalive_requests 1000000000;
    keepalive_timeout 60s;{inner}
}}
"""


# Does it split?


def check_split(proxy, shape):
    """Asks twice for many users, over several connections; returns the canary's share."""
    first = arms(proxy, shape)
    second = arms(proxy, shape)
    moved = [user for user in first if first[user] != second[user]]
    if moved:
        raise Failure(f"{proxy.name} does not split stickily: {len(moved)} of {len(first)} users changed their arm")
    share = sum(arm == "canary" for arm in first.values()) / len(first)
    if abs(share - CANARY_SHARE) > SHARE_TOLERANCE:
        raise Failure(f"{proxy.name} puts {share:.1%} of users on the canary instead of {CANARY_SHARE:.0%}")
    return share


def arms(proxy, shape):
    """The arm of each of many users; over HTTP/2 by the numbers of users that curl asks for."""
    if shape.h2:
        return arms_h2(proxy)
    connections = [client(proxy.port, shape) for _ in range(8)]
    with contextlib.ExitStack() as stack:
        for connection in connections:
            stack.callback(connection.close)
        said = {}
        for user in range(USERS_CHECKED):
            connection = connections[user % len(connections)]
            target, headers = asked(f"user-{user}", shape)
            connection.request("GET", target, headers=headers)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200 or body not in ARM_OF_BODY:
                raise Failure(f"{proxy.name} answered {response.status} {body[:200]!r}")
            said[user] = ARM_OF_BODY[body]
        return said


def arms_h2(proxy):
    """curl asks for all of them over one connection and writes their bodies one after the other."""
    pattern = f"https://127.0.0.1:{proxy.port}/hello?user=user-[0-{USERS_CHECKED - 1}]"
    command = [needed("curl"), "--silent", "--show-error", "--insecure", "--http2", "--no-buffer",
               "--write-out", " %{http_version} %{http_code}\n", pattern]
    run = subprocess.run(command, capture_output=True, timeout=60, check=False)
    said = {}
    for user, line in enumerate(run.stdout.splitlines()):
        body, version, status = line.rsplit(b" ", 2)
        if version != b"2" or status != b"200" or body not in ARM_OF_BODY:
            raise Failure(f"{proxy.name} answered {line[:200]!r}")
        said[user] = ARM_OF_BODY[body]
    if len(said) != USERS_CHECKED:
        raise Failure(f"{proxy.name} answered {len(said)} of {USERS_CHECKED} requests over HTTP/2: {run.stderr.decode()[:300]}")
    return said


def asked(user, shape):
    """Target and headers of that user's request."""
    if shape.unit == "query":
        return f"/hello?user={user}", {}
    return "/hello", {"X-User-Id": user}


def client(port, shape):
    """A client that trusts anybody."""
    if shape.tls is None:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trusting())


def trusting():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
