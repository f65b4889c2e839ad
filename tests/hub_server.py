"""A hub on the loopback interface, for the real clients of Hugging Face and Kaggle.

It speaks as much of both HTTP APIs as `huggingface_hub` and `kagglehub` need to download and to
upload a preset, and lets a test take it down and bring it back on the same port.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


def commit(files: Files) -> str:
    """The hash that stands for a commit with these files."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@dataclass
class Repository:
    """A repository of the Hugging Face Hub. `revisions` are branches and tags."""

    revisions: dict[str, Files] = field(default_factory=lambda: {"main": {}})
    history: dict[str, Files] = field(default_factory=dict)
    gated: bool = False

    def find(self, revision: str) -> Files | None:
        for files in self.revisions.values():
            self.history[commit(files)] = dict(files)
        return self.revisions.get(revision, self.history.get(revision))


class HubServer:
    """Both hubs, with everything they hold in plain dictionaries.

    `status` makes every answer that error, `page` that page. `headers` replace those of the Hugging
    Face Hub's files. `cut` is how many bytes of a Kaggle file arrive before
    the connection breaks.
    """

    TOKEN = "right"

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.models: dict[str, list[Files]] = {}  # org/model/framework/variation: its versions
        self.forbidden: set[str] = set()  # org/model
        self.requests: list[str] = []
        self.blobs: dict[str, bytes] = {}
        self.status: int | None = None
        self.cut: int | None = None
        self.page: bytes | None = None
        self.headers: dict[str, str] = {}
        self.port = 0
        self.start()

    def start(self) -> None:
        server = ThreadingHTTPServer(("127.0.0.1", self.port), _Handler)
        server.daemon_threads = True
        server.hub = self  # type: ignore[attr-defined]
        self._server, self.port = server, server.server_port
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Close the port: from now on there is nobody there."""
        self._server.shutdown()
        self._server.server_close()

    def start_again(self) -> None:
        self.stop()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that lead both clients here, with their caches and settings in `home`.

        Kaggle's client knows no address but Kaggle's and http://localhost, so it comes through
        this server as its proxy.
        """
        return {
            "HOME": str(home),
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home / "huggingface"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "KAGGLEHUB_CACHE": str(home / "kagglehub"),
            "KAGGLE_CONFIG_DIR": str(home / "kaggle"),
            "http_proxy": self.url,
            "no_proxy": "127.0.0.1",
        }


class _Handler(BaseHTTPRequestHandler):
    @property
    def hub(self) -> HubServer:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_PUT(self) -> None:
        self._route()

    def _route(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        # A proxy is asked for whole URLs.
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        authorization = self.headers.get("Authorization")
        self.authorized = authorization == f"Bearer {HubServer.TOKEN}"
        parts = path.strip("/").split("/")
        if self.hub.status is not None:
            self._error(self.hub.status, "the hub is not well")
        elif self.hub.page is not None:
            self._answer(200, {"Content-Type": "text/html"}, self.hub.page)
        elif parts[0] == "blobs":
            self._blob(parts[1])
        elif parts[:2] == ["api", "v1"]:
            self._kaggle(parts[-1], json.loads(self.body))
        elif authorization and not self.authorized:
            self._error(401, "Invalid credentials in Authorization header")
        elif path == "/api/repos/create":
            self._create_repository(json.loads(self.body))
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif parts[:2] == ["api", "models"]:
            self._repository_api("/".join(parts[2:4]), parts[4:])
        elif parts[1].endswith(".git"):
            self._lfs_batch(json.loads(self.body))
        else:
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    # Answers.

    def _answer(self, status: int, headers: dict[str, Any], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body)

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(status, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _error(self, status: int, message: str, code: str | None = None) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._answer(status, headers)

    def _blob(self, key: str) -> None:
        """Where both hubs keep the bytes."""
        if self.command == "PUT":
            self.hub.blobs[key] = self.body
            self._answer(200, {"ETag": key})
            return
        body = self.hub.blobs[key]
        if self.hub.cut is None:
            self._answer(200, {}, body)
        else:
            self._answer(200, {"Content-Length": len(body)}, body[: self.hub.cut])

    # The Hugging Face Hub.

    def _find(self, name: str, revision: str) -> Files | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            # Strangers are not told whether a repository is private or missing.
            self._error(404 if self.authorized else 401, "Repository not found", "RepoNotFound")
            return None
        files = repository.find(revision)
        if files is None:
            self._error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return files

    def _resolve(self, name: str, revision: str, path: str) -> None:
        files = self._find(name, revision)
        if files is None:
            return
        if self.hub.repositories[name].gated and not self.authorized:
            self._error(403, "Access to this model is restricted", "GatedRepo")
            return
        head = {"X-Repo-Commit": commit(files)}
        if path not in files:
            self._answer(404, head | {"X-Error-Code": "EntryNotFound"})
            return
        body = files[path]
        head["ETag"] = f'"{hashlib.sha256(body).hexdigest()}"'
        self._answer(200, head | self.hub.headers, body)

    def _repository_api(self, name: str, rest: list[str]) -> None:
        revision = rest[1] if len(rest) > 1 else "main"
        files = self._find(name, revision)
        if files is None:
            return
        action = rest[0] if rest else "revision"
        if action != "revision" and not self.authorized:
            self._error(403, "You have no write access")
        elif action == "revision":
            siblings = [{"rfilename": path, "size": len(files[path])} for path in files]
            self._json({"id": name, "sha": commit(files), "siblings": siblings})
        elif action == "preupload":
            asked = json.loads(self.body)["files"]
            self._json({"files": [self._upload_mode(file["path"]) for file in asked]})
        elif action == "commit":
            self._commit(files)
            url = f"{self.hub.url}/{name}/commit/{commit(files)}"
            self._json({"success": True, "commitUrl": url, "commitOid": commit(files)})
        else:
            self._error(404, f"not part of this hub: {action}")

    def _create_repository(self, asked: dict[str, Any]) -> None:
        if not self.authorized:
            self._error(401, "Invalid username or password.")
            return
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        status = 409 if name in self.hub.repositories else 200
        self.hub.repositories.setdefault(name, Repository())
        self._json({"url": f"{self.hub.url}/{name}", "name": name}, status)

    @staticmethod
    def _upload_mode(path: str) -> dict[str, Any]:
        mode = "lfs" if path.endswith((".h5", ".safetensors")) else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False}

    def _lfs_batch(self, asked: dict[str, Any]) -> None:
        def upload(key: str) -> dict[str, Any]:
            return {"upload": {"href": f"{self.hub.url}/blobs/{key}"}}

        objects = [{**thing, "actions": upload(thing["oid"])} for thing in asked["objects"]]
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, files: Files) -> None:
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]

    # Kaggle.

    def _kaggle(self, call: str, asked: dict[str, Any]) -> None:
        writes = call.startswith(("Create", "Start"))
        if not self.authorized and (writes or self.headers.get("Authorization")):
            self._kaggle_error(401, "Unauthorized")
        elif call == "StartBlobUpload":
            token = f"blob{len(self.hub.blobs)}-{asked['name']}"
            self.hub.blobs[token] = b""
            self._json({"token": token, "createUrl": f"{self.hub.url}/blobs/{token}"})
        elif call == "CreateModel":
            denied = f"{asked['ownerSlug']}/{asked['slug']}" in self.hub.forbidden
            self._json({"error": "Denied", "errorCode": 403} if denied else {"id": 1})
        else:
            self._kaggle_model(call, asked)

    def _kaggle_model(self, call: str, asked: dict[str, Any]) -> None:
        model = f"{asked['ownerSlug']}/{asked['modelSlug']}"
        body = asked.get("body", {})
        framework = (asked.get("framework") or body.get("framework", "")).rpartition("_")[2].lower()
        name = f"{model}/{framework}/{asked.get('instanceSlug') or body.get('instanceSlug')}"
        versions = self.hub.models.get(name)
        if model in self.hub.forbidden:
            self._kaggle_error(403, "Permission 'models.get' was denied")
        elif call == "GetModel":
            known = any(key.startswith(f"{model}/") for key in self.hub.models)
            self._json({"slug": model}) if known else self._kaggle_error(404, "Not found")
        elif call == "CreateModelInstance" and versions is not None:
            self._json({"error": "Already exists", "errorCode": 409})
        elif call in ("CreateModelInstance", "CreateModelInstanceVersion"):
            self.hub.models.setdefault(name, []).append(self._uploaded(body))
            self._json({"id": 1})
        elif versions is None:
            self._kaggle_error(404, "Not found")
        elif call == "GetModelInstance":
            self._json({"versionNumber": len(versions)})
        elif call == "ListModelInstanceVersionFiles":
            names = versions[asked["versionNumber"] - 1]
            self._json({"files": [{"name": name} for name in names]})
        elif call == "DownloadModelInstanceVersion":
            number = asked["versionNumber"]
            files = versions[number - 1] if number <= len(versions) else {}
            if asked["path"] in files:
                key = f"{hash((name, number, asked['path']))}"
                self.hub.blobs[key] = files[asked["path"]]
                self._answer(302, {"Location": f"{self.hub.url}/blobs/{key}"})
            else:
                self._kaggle_error(404, "Not found")
        else:
            self._kaggle_error(501, f"not part of this hub: {call}")

    def _uploaded(self, folder: dict[str, Any], prefix: str = "") -> Files:
        files: Files = {}
        for file in folder.get("files", ()):
            name = file["token"].partition("-")[2]
            files[prefix + name] = self.hub.blobs[file["token"]]
        for inner in folder.get("directories", ()):
            files |= self._uploaded(inner, f"{prefix}{inner['name']}/")
        return files

    def _kaggle_error(self, status: int, message: str) -> None:
        self._json({"code": status, "message": message}, status)
