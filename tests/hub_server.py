"""A small Hugging Face Hub on this machine: one repository, and faults on demand."""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

REPO = "someone/weights"


@dataclass
class Hub:
    """What the server holds, how it misbehaves and what it was asked.

    Attributes:
        commits: Files by path, by commit; the last commit is "main".
        token: The token it demands, if any.
        break_after: How many bytes of each body it sends before it hangs up, one per request.
        corrupt: Whether it sends other bytes than it promises.
        requests: Method, path and Range of every request.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    token: str | None = None
    break_after: list[int] = field(default_factory=list)
    corrupt: bool = False
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""

    @property
    def files(self) -> dict[str, bytes]:
        """What the last commit holds."""
        return list(self.commits.values())[-1] if self.commits else {}

    def add(self, files: dict[str, bytes], without: Sequence[str] = ()) -> str:
        """Commit files beside those that are there, and without some of those."""
        old = self.files
        commit = hashlib.sha1(b"%d" % len(self.commits)).hexdigest()
        self.commits[commit] = {n: old[n] for n in old if n not in without} | files
        return commit

    def find(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return the commit and the files of a revision."""
        commit = list(self.commits)[-1] if revision == "main" else revision
        return (commit, self.commits[commit]) if commit in self.commits else None

    def bodies(self) -> list[str]:
        """Return the paths whose contents were asked for."""
        return [path for method, path, _ in self.requests if method == "GET" and "resolve" in path]


class QuietHandler(BaseHTTPRequestHandler):
    """Answers with whole bodies, and prints nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serve(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run a server until the block ends; yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(QuietHandler):
    """Answers what huggingface_hub asks when it lists, downloads and uploads."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, X_Error_Code=code, X_Error_Message=code)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.hub.token is not None and token != self.hub.token:
            return self.refuse(401, "RepoNotFound")
        if REPO not in path:
            return self.refuse(404, "RepoNotFound")
        kind, _, rest = path.partition(f"/{REPO}/")
        verb, revision, *inside = rest.split("/", 2)
        found = self.hub.find(revision)
        if found is None:
            return self.refuse(404, "RevisionNotFound")
        commit, files = found
        if kind.startswith("/api/"):
            siblings = [{"rfilename": name} for name in files]
            tree = [{"type": "file", "path": n, "size": len(files[n]), "oid": ""} for n in files]
            about = {"id": REPO, "sha": commit, "siblings": siblings}
            listing = json.dumps(tree if verb == "tree" else about).encode()
            return self.answer(200, listing, Content_Type="application/json")
        if inside[0] not in files:
            return self.refuse(404, "EntryNotFound")
        return self.send_file(files[inside[0]], commit=commit)

    def send_file(self, content: bytes, commit: str) -> None:
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        asked = self.headers.get("Range", "").removeprefix("bytes=")
        first, _, last = asked.partition("-")
        part = content[int(first or 0) : int(last) + 1 if last else None]
        part = bytes(255 - b for b in part) if self.hub.corrupt else part
        if self.command == "GET" and self.hub.break_after:
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part[: self.hub.break_after.pop(0)])
            self.close_connection = True
            return
        self.answer(206 if asked else 200, part, ETag=etag, X_Repo_Commit=commit)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path, None))
        if "/preupload/" in path:
            files = [{**f, "uploadMode": "regular"} for f in json.loads(body)["files"]]
            reply = {"files": [{**f, "shouldIgnore": False} for f in files]}
        elif "/commit/" in path:
            lines = [json.loads(line) for line in body.splitlines()]
            new, gone = (
                {line["value"]["path"]: line["value"] for line in lines if line["key"] == key}
                for key in ("file", "deletedFile")
            )
            files = {path: base64.b64decode(value["content"]) for path, value in new.items()}
            commit = self.hub.add(files, without=[*gone])
            reply = {"commitUrl": f"{self.hub.url}/{REPO}/commit/{commit}", "commitOid": commit}
        else:
            if not self.hub.commits:
                self.hub.add({})  # as new repositories have one
            reply = {"url": f"{self.hub.url}/{REPO}", "id": REPO}
        self.answer(200, json.dumps(reply).encode(), Content_Type="application/json")


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Run a Hub until the block ends."""
    hub = Hub()
    handler = type("OurHandler", (Handler,), {"hub": hub})
    with serve(handler) as hub.url:
        yield hub
