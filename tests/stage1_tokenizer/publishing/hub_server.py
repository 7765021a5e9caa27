"""A stand-in for the Hub that speaks what pushing and fetching use: repositories, branches, commits, LFS, downloads."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote

API = r"/api/models/(?P<repo>[^/]+/[^/]+)"


class Hub(ThreadingHTTPServer):
    """Its state: repositories by name, their settings, commits and branches; LFS contents by hash; what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, dict[str, Any]] = {}
        self.stored: dict[str, bytes] = {}
        self.asked: list[str] = []

    def files(self, repo: str, revision: str) -> dict[str, bytes]:
        """A commit's files, by branch or hash."""
        known = self.repos[repo]
        return known["commits"][known["branches"].get(revision, revision)]

    def commit(self, repo: str, branch: str, files: dict[str, bytes]) -> str:
        """Add a commit; its hash."""
        made = hashlib.sha1(repr(sorted(files)).encode() + str(len(self.repos[repo]["commits"])).encode()).hexdigest()
        self.repos[repo]["commits"][made] = files
        self.repos[repo]["branches"][branch] = made
        return made


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body, path = self.rfile.read(int(self.headers.get("Content-Length", 0))), self._path()
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if name in self.server.repos:
                return self._json({"error": "it exists", "url": f"{self.server.address}/{name}", "id": name}, 409)
            self.server.repos[name] = {
                "private": asked.get("visibility") == "private" or asked.get("private", False),
                "commits": {},
                "branches": {},
            }
            self.server.commit(name, "main", {})
            return self._json({"url": f"{self.server.address}/{name}", "id": name})
        if found := re.fullmatch(API + "/branch/(?P<branch>.+)", path):
            repo = self.server.repos[found["repo"]]
            repo["branches"].setdefault(unquote(found["branch"]), repo["branches"]["main"])
            return self._json({})
        if re.fullmatch(API + "/preupload/.+", path):
            return self._json({"files": [self._mode(file["path"]) for file in json.loads(body)["files"]]})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            return self._json(
                {"transfer": "basic", "objects": [self._slot(each) for each in json.loads(body)["objects"]]}
            )
        if found := re.fullmatch(API + "/commit/(?P<branch>.+)", path):
            return self._commit(found["repo"], unquote(found["branch"]), body)
        return self._json({"error": f"not spoken here: {path}"}, 404)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        digest = hashlib.sha256(body).hexdigest()
        assert self._path() == f"/lfs/{digest}"
        self.server.stored[digest] = body
        self._json({})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self._path()
        if found := re.fullmatch(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", path):
            return self._file(found["repo"], unquote(found["revision"]), found["file"])
        if found := re.fullmatch(API + r"(/revision/(?P<revision>[^/]+))?(?P<tree>/tree/(?P<at>[^/]+))?", path):
            return self._info(found["repo"], unquote(found["revision"] or found["at"] or "main"), bool(found["tree"]))
        return self._json({"error": f"not spoken here: {path}"}, 404)

    def _path(self) -> str:
        self.server.asked.append(f"{self.command} {self.path}")
        return self.path.split("?")[0]

    def _mode(self, name: str) -> dict[str, Any]:
        return {
            "path": name,
            "uploadMode": "lfs" if name.endswith(".safetensors") else "regular",
            "shouldIgnore": False,
        }

    def _slot(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return {**wanted, "actions": {"upload": {"href": f"{self.server.address}/lfs/{wanted['oid']}"}}}

    def _commit(self, repo: str, branch: str, body: bytes) -> None:
        files = dict(self.server.files(repo, branch))
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
        made = self.server.commit(repo, branch, files)
        self._json({"commitUrl": f"{self.server.address}/{repo}/commit/{made}", "commitOid": made})

    def _info(self, repo: str, revision: str, tree: bool) -> None:
        known = self.server.repos.get(repo)
        if known is None:
            return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        if revision not in known["branches"] and revision not in known["commits"]:
            return self._json({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        files = self.server.files(repo, revision)
        entries = [
            {"type": "file", "path": name, "size": len(text), "oid": hashlib.sha1(text).hexdigest()}
            for name, text in files.items()
        ]
        if tree:
            return self._json(entries)
        sha = known["branches"].get(revision, revision)
        siblings = [{"rfilename": name} for name in files]
        return self._json({"id": repo, "sha": sha, "private": known["private"], "siblings": siblings, "tags": []})

    def _file(self, repo: str, revision: str, name: str) -> None:
        text = self.server.files(repo, revision)[name]
        commit = self.server.repos[repo]["branches"].get(revision, revision)
        self._send(text, 200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(text).hexdigest()}"'})

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, text: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(text))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Silent."""


@contextmanager
def hub() -> Iterator[Hub]:
    """A running one."""
    with Hub() as server:
        thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
