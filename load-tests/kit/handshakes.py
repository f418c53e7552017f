"""A program: full TLS handshakes, each with one request, as fast as a few processes can make them.

    python3 handshakes.py PORT SECONDS PROCESSES

Load generators take up sessions again where they can; this one never does, and fails if the server did. It prints how many
requests were answered and in how many seconds.
"""

import multiprocessing
import socket
import ssl
import sys
import time

REQUEST = ("GET /hello HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: weir-load-test/1.0\r\nAccept: text/plain,*/*;q=0.8\r\n"
           "Accept-Encoding: gzip, deflate\r\nAccept-Language: en-GB,en;q=0.7\r\nX-User-Id: user-{}\r\n\r\n")


def main():
    port, seconds, processes = (int(argument) for argument in sys.argv[1:4])
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        began = time.monotonic()
        done = pool.starmap(client, [(port, seconds, number * 3571) for number in range(processes)])
        print(f"RESULT requests={sum(done)} duration_us={int((time.monotonic() - began) * 1e6)}")


def client(port, seconds, user):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    done, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        user = (user + 1) % 10_000
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(plain) as stream:
                if stream.session_reused:
                    raise RuntimeError("the server took up an earlier session")
                stream.sendall(REQUEST.format(user).encode())
                answer = stream.recv(4096)
                while answer and b"Hello, " not in answer:
                    answer += stream.recv(4096)
                if not answer.startswith(b"HTTP/1.1 200 "):
                    raise RuntimeError(f"answered {answer[:200]!r}")
        done += 1
    return done


if __name__ == "__main__":
    main()
