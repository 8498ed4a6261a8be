"""A stand-in for the hub's server, which takes uploads; the programs' client is the real one."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

SHA = "0" * 40


class Hub(ThreadingHTTPServer):
    """A server of repositories: ``files`` holds the contents of committed files by their paths.

    ``paused`` is the number of the request that gets no answer, 0 for none, and ``reached`` is set
    once it has come.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, bytes] = {}
        self.requests = self.paused = 0
        self.reached = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Says nothing of programs that were killed while they were answered."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a program that uploads to it."""
        endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        return {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_stand_in"}


class Answers(BaseHTTPRequestHandler):
    """The answers to the requests of an upload."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Describes a repository."""
        self._answer({"id": "user/data", "sha": SHA, "siblings": [], "tags": [], "private": False})

    def do_POST(self) -> None:
        """Creates a repository, checks a card, takes a list of files or a commit."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests += 1
        if self.server.requests == self.server.paused:
            self.server.reached.set()
            time.sleep(60)  # the program is killed meanwhile
        endpoint = self.server.environment["HF_ENDPOINT"]
        if self.path.startswith("/api/repos/create"):
            self._answer({"url": f"{endpoint}/user/data", "id": "user/data"})
        elif "/preupload/" in self.path:
            kept = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self._answer(
                {"files": [{"path": f["path"], **kept} for f in json.loads(body)["files"]]}
            )
        elif "/commit/" in self.path:
            self._commit([json.loads(line) for line in body.splitlines()])
            self._answer({"commitUrl": f"{endpoint}/user/data/commit/{SHA}", "commitOid": SHA})
        else:
            self._answer({"errors": [], "warnings": []})

    def _commit(self, rows: list[dict[str, Any]]) -> None:
        files = [row["value"] for row in rows if row["key"] == "file"]
        self.server.files |= {one["path"]: base64.b64decode(one["content"]) for one in files}

    def _answer(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Logs nothing."""
