"""How long a client waits while others send their photos very slowly.

python benchmarks/slow_uploads.py --connections 200 --seconds 30
"""

import argparse
import contextlib
import io
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
Address = tuple[str, int]


def request_with_photo() -> bytes:
    """A whole request, as it goes over the wire."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    photo = io.BytesIO()
    Image.fromarray(noise).resize((500, 375)).save(photo, "JPEG")
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    body = part + photo.getvalue() + b"\r\n--x--\r\n"
    head = "POST /model/predict HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@contextlib.contextmanager
def slow_uploads(address: Address, connections: int, start: int = 200) -> Iterator[list[socket.socket]]:
    """Connections that have sent ``start`` bytes of a request and send one more each second.

    Yields:
        the connections that the server has not closed.
    """
    request, sent, stop = request_with_photo(), start, threading.Event()
    clients = [socket.create_connection(address, timeout=30) for _ in range(connections)]
    for client in clients:
        client.sendall(request[:start])

    def send():
        nonlocal sent
        while not stop.wait(1):
            for client in clients.copy():
                try:
                    client.sendall(request[sent : sent + 1])
                except OSError:
                    clients.remove(client)
            sent += 1

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield clients
    finally:
        stop.set()
        sender.join()
        for client in clients:
            client.close()


def caption_for(address: Address, seconds: float) -> list[float]:
    """Send one photo after the other; returns the milliseconds that each took."""
    body = request_with_photo().split(b"\r\n\r\n", 1)[1]
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request("http://{}:{}/model/predict".format(*address), body, headers)
    end, times = time.perf_counter() + seconds, []
    while (start := time.perf_counter()) < end:
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
        times.append(1000 * (time.perf_counter() - start))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    environment = os.environ | {"CAPTIONER_RATE_LIMIT": ""}
    command = [sys.executable, "app.py", "--port", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            line = server.stdout.readline() if server.stdout else ""
            address = "127.0.0.1", int(re.findall(r"\d+", line)[-1])
            caption_for(address, 3)
            report("no slow upload", caption_for(address, options.seconds))
            for start, what in ((20, "headers"), (200, "a photo")):
                with slow_uploads(address, options.connections, start) as clients:
                    times = caption_for(address, options.seconds)
                report(f"{len(clients)} clients send {what} at 1 byte/s", times)
        finally:
            server.terminate()


def report(what: str, times: list[float]) -> None:
    print(
        f"{what}: {len(times)} photos, p50 {statistics.median(times):.0f} ms, slowest {max(times):.0f} ms", flush=True
    )


if __name__ == "__main__":
    main()
