"""A stand-in for the Hugging Face hub on this machine: repositories, branches, commits and files over HTTP."""

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

TOKEN = "hf_of_the_owner"


class Hub:
    """Repositories in memory; `requests` lists the method and path of every request."""

    def __init__(self):
        self.address = None
        self.requests = []
        self.private = {}  # repository -> whether only its owner sees it
        self.branches = {}  # (repository, branch) -> commit
        self.commits = {}  # commit -> path -> content

    def find(self, repo, revision):
        commit = self.branches.get((repo, revision), revision)
        return commit if commit in self.commits else None


def _answer(hub, method, path, body, token):
    """Return status, headers and content."""
    if path == "/api/validate-yaml":
        return 200, {}, {"errors": [], "warnings": []}
    if path == "/api/repos/create":
        if token != TOKEN:
            return 401, {}, {"error": "unauthorized"}
        asked = json.loads(body)
        repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"owner/{asked['name']}"
        if repo in hub.private:
            return 409, {}, {"url": f"/{repo}"}
        hub.private[repo] = asked.get("visibility") == "private" or bool(asked.get("private"))
        hub.branches[repo, "main"] = "0" * 40
        hub.commits.setdefault("0" * 40, {})
        return 200, {}, {"url": f"/{repo}"}
    match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w+)/([^/]+))?/?", path) or re.fullmatch(
        r"/([^/]+/[^/]+)/(resolve)/([^/]+)/(.+)", path
    )
    if match is None:
        return 404, {}, {"error": path}
    repo, action, revision = match[1], match[2] or "revision", unquote(match[3] or "main")
    if repo not in hub.private or (hub.private[repo] and token != TOKEN):
        return 401, {"X-Error-Code": "RepoNotFound"}, {"error": "Repository not found"}
    if action == "branch":
        if (repo, revision) in hub.branches:
            return 409, {}, {}
        hub.branches[repo, revision] = hub.branches[repo, "main"]
        return 200, {}, {}
    commit = hub.find(repo, revision)
    if commit is None:
        return 404, {"X-Error-Code": "RevisionNotFound"}, {"error": "Invalid rev id"}
    files = hub.commits[commit]
    if action == "preupload":
        return (
            200,
            {},
            {"files": [{**f, "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]},
        )
    if action == "commit":
        if token != TOKEN:
            return 403, {}, {"error": "forbidden"}
        added = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
        contents = files | {file["path"]: base64.b64decode(file["content"]) for file in added}
        new = hashlib.sha1(body).hexdigest()
        hub.commits[new], hub.branches[repo, revision] = contents, new
        return 200, {}, {"success": True, "commitOid": new, "commitUrl": f"{hub.address}/{repo}/commit/{new}"}
    if action == "tree":
        return (
            200,
            {},
            [{"type": "file", "path": p, "size": len(c), "oid": _hash(c)} for p, c in files.items()],
        )
    if action == "resolve":
        if match[4] not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, {}
        content = files[match[4]]
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{_hash(content)}"'}, content
    siblings = [{"rfilename": name} for name in files]
    return 200, {}, {"id": repo, "sha": commit, "siblings": siblings, "tags": [], "private": hub.private[repo]}


def _hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serve_hub():
    """Serve a hub without repositories at its `address`."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            hub.requests.append((self.command, path))
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, headers, content = _answer(hub, self.command, path, body, token)
            if not isinstance(content, bytes):
                content, headers = json.dumps(content).encode(), headers | {"Content-Type": "application/json"}
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = answer  # noqa: N815 (names of http.server)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def use_hub(monkeypatch, cache):
    """Serve a hub that huggingface_hub talks to in this process, with the token of the owner; yield it."""
    from huggingface_hub import constants

    from tstk.config.hub import _fetch

    for name in ("HF_HUB_OFFLINE", "TSTK_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with serve_hub() as hub:
        template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        _fetch.cache_clear()
        yield hub
        _fetch.cache_clear()
