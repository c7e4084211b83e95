"""A hub id is fetched only when asked, by one process, from a hub that runs inside the test."""

import hashlib
import http.server
import json
import threading

import pytest

from pipeline.errors import ConfigError, ModelError
from pipeline.external.download import OFFLINE, download
from pipeline.external.hub import locate
from pipeline.files import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "additional_chat_templates/tool_use.jinja": b"{{ tools }}",
    "modeling_evil.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
}


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does, for the one repository `organisation/name`."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        self.server.asked.append(path)
        name = path.split(f"/resolve/{COMMIT}/")[-1]
        path = path.replace("/datasets/", "/models/", 1).replace("/models/org", "/org", 1)
        path = path.replace("/api/org", "/api/models/org", 1)
        if path == "/api/models/organisation/name/revision/main":
            siblings = [{"rfilename": file} for file in FILES]
            self.answer(json.dumps({"id": "o/n", "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"/api/models/organisation/name/tree/{COMMIT}"):
            tree = [{"type": "file", "path": file, "size": 1, "oid": "0"} for file in FILES]
            self.answer(json.dumps(tree).encode())
        elif path.startswith(f"/organisation/name/resolve/{COMMIT}/") and name in FILES:
            self.answer(FILES[name])
        else:
            self.send_error(404)

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in OFFLINE:
        monkeypatch.setenv(name, "1")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fetched(folder):
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in names if not name.startswith("."))


def test_settings_first_then_weights_and_nothing_that_could_be_run(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = locate("organisation/name", None, allow_network=True, weights=False)
    assert folder.is_relative_to(tmp_path / "cache/tidewheel")
    template = "additional_chat_templates/tool_use.jinja"
    assert fetched(folder) == [template, "config.json", "tokenizer.json"]
    assert (folder / "config.json").read_bytes() == FILES["config.json"]
    assert locate("organisation/name", None, allow_network=True, weights=True) == folder
    weights = "model.safetensors"
    assert fetched(folder) == [template, "config.json", weights, "tokenizer.json"]
    foreign = [path for path in hub.asked if "organisation/name" not in path]
    assert foreign == []


def test_a_data_set_is_fetched_with_nothing_that_could_be_run(hub, tmp_path):
    folder = download("dataset", "organisation/name", None, ["*"])
    assert folder.is_relative_to(tmp_path / "cache/tidewheel")
    assert fetched(folder) == sorted(name for name in FILES if not name.endswith(".py"))
    assert all(path.startswith(("/api/datasets/", "/datasets/")) for path in hub.asked)
    assert download("model", "organisation/name", None, ["*.json"]) != folder


def test_without_allow_network_nothing_is_asked(hub):
    with pytest.raises(
        ConfigError,
        match=r"organisation/name: there is no such folder.*\n.*model\.allow_network=true",
    ):
        locate("organisation/name", None, allow_network=False, weights=True)
    assert hub.asked == []


def test_a_failed_download_gives_the_reason_and_the_remedy(hub):
    match = r"(?s)model\.source=organisation/name: could not be fetched \(.+\)\.\nLook at the id"
    with pytest.raises(ModelError, match=match):
        locate("organisation/name", "no-such-branch", allow_network=True, weights=True)


def test_revisions_are_kept_apart(hub):
    locate("organisation/name", "main", allow_network=True, weights=False)
    with pytest.raises(ModelError, match="could not be fetched"):
        locate("organisation/name", "other", allow_network=True, weights=False)


def test_a_folder_needs_no_hub(tmp_path, hub):
    (tmp_path / "config.json").touch()
    assert locate(str(tmp_path), None, allow_network=True, weights=True) == tmp_path
    assert hub.asked == []


def test_only_one_module_can_fetch():
    sources = {path: path.read_text() for path in (ROOT / "pipeline").rglob("*.py")}
    fetching = [path.name for path, text in sources.items() if "snapshot_download(" in text]
    assert fetching == ["download.py"]
