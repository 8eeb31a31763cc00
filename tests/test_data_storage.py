import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import QuietHandler, serve

from ardiffusion.data.storage import fetch, send

pytest.importorskip("litdata", reason="litdata is not installed: the extra `stream` brings it")


class S3(QuietHandler):
    """Writes an object in parts and reads it, as S3 does."""

    objects: dict[str, bytes]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key = self.path.partition("?")[0]
        begins = "<UploadId>one</UploadId>" if self.path.endswith("uploads=") else ""
        name = "InitiateMultipartUploadResult" if begins else "CompleteMultipartUploadResult"
        end = "<Bucket>bucket</Bucket><ETag>e</ETag>"
        self.answer(200, f"<{name}><Key>{key}</Key>{end}{begins}</{name}>".encode())

    def do_PUT(self) -> None:
        number = int(re.findall(r"partNumber=(\d+)", self.path)[0])
        key = self.path.partition("?")[0]
        assert number == 1 or key in self.objects
        part = self.rfile.read(int(self.headers["Content-Length"]))
        self.objects[key] = self.objects.get(key, b"") + part
        self.answer(200, ETag='"e"')

    def do_GET(self) -> None:
        written = "Thu, 26 Nov 2026 12:00:00 GMT"
        self.answer(200, self.objects[self.path], ETag='"e"', Last_Modified=written)


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """What a server that speaks S3's protocol without TLS holds, as MinIO does by default."""
    objects: dict[str, bytes] = {}
    handler = type("Handler", (S3,), {"objects": objects})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    with serve(handler) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield objects


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
