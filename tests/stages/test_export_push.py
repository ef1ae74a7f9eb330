"""`alpaca export --push` against a local server that speaks the hub's few endpoints for real."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from alpaca_cli.core.errors import UsageError
from alpaca_cli.stages.export_push import check_name
from tests.processes import environment, run
from tests.tiny import save_tiny_model

TOKEN = "hf_secretsecretsecret"


class Hub(ThreadingHTTPServer):
    """A hub with one model repository at most: what it was asked, and what it holds."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked: list[str] = []
        self.files: dict[str, bytes] = {}
        self.objects: dict[str, bytes] = {}
        self.created: dict[str, Any] = {}
        self.private: bool | None = None  # None: there is no repository
        self.refuse = 0  # status of every answer


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.asked.append(f"{self.command} {path}")
        if hub.refuse:
            self._send({"error": "no"}, hub.refuse)
        elif (
            not path.startswith("/objects/") and self.headers["Authorization"] != f"Bearer {TOKEN}"
        ):
            self._send({"error": "who?"}, 401)
        elif path.startswith("/objects/"):
            hub.objects[path.removeprefix("/objects/")] = body
            self._send({})
        elif path == "/api/repos/create":
            hub.created = json.loads(body)
            if hub.private is None:
                hub.private = hub.created.get("visibility") == "private"
                self._send({"url": f"{hub.address}/me/alpaca", "id": "me/alpaca", "name": "alpaca"})
            else:
                self._send({"url": f"{hub.address}/me/alpaca", "error": "exists"}, 409)
        elif path.endswith("/objects/batch"):
            self._send({"transfer": "basic", "objects": [self._object(o) for o in _objects(body)]})
        elif path.endswith("/preupload/main"):
            self._send({"files": [_mode(each) for each in json.loads(body)["files"]]})
        elif path.endswith("/commit/main"):
            self._commit(body)
            done = {
                "commitOid": "0" * 40,
                "commitUrl": f"{hub.address}/me/alpaca/commit/0",
                "pullRequestUrl": None,
            }
            self._send({"success": True, **done})
        elif path == "/api/validate-yaml":
            self._send({"errors": [], "warnings": []})
        elif path.startswith("/api/models/"):
            self._send({"id": "me/alpaca", "private": hub.private, "siblings": [], "sha": "0" * 40})
        else:
            self._send({"error": path}, 404)

    def _object(self, wanted: dict[str, Any]) -> dict[str, Any]:
        upload = {"href": f"{self.server.address}/objects/{wanted['oid']}", "header": {}}
        return {**wanted, "actions": {"upload": upload}}

    def _commit(self, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.files[value["path"]] = self.server.objects[value["oid"]]

    def _send(self, value: dict[str, Any], status: int = 200) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def _objects(body: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(body)["objects"]
    return found


def _mode(file: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("push") / "model")


def surroundings(hub: Hub, cwd: Path, token: str = TOKEN) -> dict[str, str]:
    return {
        "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(cwd / "home"),
        "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
    }  # fmt: skip


def push(
    hub: Hub, model: Path, cwd: Path, *flags: str, token: str = TOKEN, code: int = 0
) -> subprocess.CompletedProcess[str]:
    done = run(
        "export", model, "out", "--push", "me/alpaca", *flags,
        cwd=cwd, code=code, **surroundings(hub, cwd, token),
    )  # fmt: skip
    assert TOKEN not in done.stdout + done.stderr
    return done


def test_what_lies_in_the_folder_is_sent_private_and_shown_first(
    hub: Hub, model: Path, tmp_path: Path
) -> None:
    done = push(hub, model, tmp_path, "--yes", "--max-shard-size", "200KB")
    sent = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert hub.files == sent
    assert len([name for name in sent if name.endswith(".safetensors")]) > 1
    assert (hub.created["name"], hub.private) == ("alpaca", True)
    shown = " ".join(done.stderr.split())
    assert "to me/alpaca (private):" in shown
    assert all(f"{len(data):,} {name}" in shown for name, data in sent.items())
    assert f"sent to {hub.address}/me/alpaca" in done.stdout


def test_nothing_is_sent_unless_all_is_well(hub: Hub, model: Path, tmp_path: Path) -> None:
    """A dry run, nobody to agree, and no token: three processes, no request, no folder."""
    done = push(hub, model, tmp_path, "--dry-run", "--public", "--json", token="")
    assert json.loads(done.stdout)["dry_run"]
    done = push(hub, model, tmp_path, code=2)
    assert "nobody is at a terminal to agree" in done.stderr
    done = push(hub, model, tmp_path, "--yes", token="", code=2)
    assert "HF_TOKEN" in done.stderr
    assert "hf auth login" in done.stderr
    assert hub.asked == []
    assert not (tmp_path / "out").exists()


PUSH = """
import sys
from pathlib import Path
from alpaca_cli.core.errors import AlpacaError
from alpaca_cli.stages.export_push import Destination, push
try:
    push(Path("folder"), Destination("me/alpaca", private=sys.argv[1] == "private"))
except AlpacaError as error:
    print(error.exit_code, error, error.hint)
"""


@pytest.mark.parametrize(
    ("status", "private", "said"),
    [
        (403, None, "2 me/alpaca: the hub refuses this token"),
        (503, None, "75 me/alpaca: the hub is busy (503)"),
        (0, False, "2 me/alpaca exists and is public; nothing was sent"),
    ],
)
def test_a_refusal_is_one_message(
    hub: Hub, tmp_path: Path, status: int, private: bool | None, said: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("text")
    hub.refuse, hub.private = status, private
    done = subprocess.run(
        [sys.executable, "-c", PUSH, "private"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=os.getcwd(), **surroundings(hub, tmp_path)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(said)
    assert TOKEN not in done.stdout
    assert not [each for each in hub.asked if "commit" in each or "upload" in each]


@pytest.mark.parametrize("name", ["alpaca", "a/b/c", "me/al paca", "me/-x", "me/a..b", "/x", "me/"])
def test_a_name_that_cannot_be_is_refused_offline(name: str) -> None:
    with pytest.raises(UsageError, match="--push"):
        check_name(name)
    check_name("me/alpaca-7b_v1.0")
