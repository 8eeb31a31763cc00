import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ardiffusion.data.storage import fetch, send

pytest.importorskip("litdata", reason="litdata is not installed: the extra `stream` brings it")


class S3(BaseHTTPRequestHandler):
    """Writes an object in parts and reads it, as S3 does."""

    objects: dict[str, bytes]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key = self.path.partition("?")[0]
        begins = "<UploadId>one</UploadId>" if self.path.endswith("uploads=") else ""
        name = "InitiateMultipartUploadResult" if begins else "CompleteMultipartUploadResult"
        end = "<Bucket>bucket</Bucket><ETag>e</ETag>"
        self.answer(f"<{name}><Key>{key}</Key>{end}{begins}</{name}>".encode())

    def do_PUT(self) -> None:
        number = int(re.findall(r"partNumber=(\d+)", self.path)[0])
        key = self.path.partition("?")[0]
        assert number == 1 or key in self.objects
        part = self.rfile.read(int(self.headers["Content-Length"]))
        self.objects[key] = self.objects.get(key, b"") + part
        self.answer(b"")

    def do_GET(self) -> None:
        self.answer(self.objects[self.path])

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Thu, 26 Nov 2026 12:00:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """What a server that speaks S3's protocol without TLS holds, as MinIO does by default."""
    objects: dict[str, bytes] = {}
    handler = type("Handler", (S3,), {"objects": objects})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    yield objects
    server.shutdown()
    server.server_close()


def test_a_server_without_tls_is_written_and_read(
    tmp_path: Path, objects: dict[str, bytes]
) -> None:
    (tmp_path / "chunk-0-0.bin").write_bytes(bytes(range(256)) * 40)
    send(tmp_path / "chunk-0-0.bin", "s3://bucket/videos/chunk-0-0.bin")
    assert objects == {"/bucket/videos/chunk-0-0.bin": bytes(range(256)) * 40}
    there = tmp_path / "there"
    there.mkdir()
    fetch("s3://bucket/videos", "chunk-0-0.bin", there)
    assert (there / "chunk-0-0.bin").read_bytes() == bytes(range(256)) * 40
