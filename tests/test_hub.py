"""A hub of our own on this machine: what is fetched, what is found afterwards, and how it can fail."""

import hashlib
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Run = Callable[..., subprocess.CompletedProcess[bytes]]


class Hub(ThreadingHTTPServer):
    """Serves files as the Hugging Face hub does: `/ORG/REPO/resolve/main/FILE`, with commit, etag and size."""

    files: dict[str, bytes]
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        known = found is not None and any(name.startswith(found[1] + "/") for name in self.server.files)
        content = self.server.files.get(f"{found[1]}/{found[2]}") if found else None
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        else:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if with_body and content is not None:
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(tiny_model: Callable[[str], Path]) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Handler)
    server.asked = []
    server.files = {
        f"ann/tiny/{name}": (tiny_model("siglip") / name).read_bytes()
        for name in ("open_clip_config.json", "open_clip_model.safetensors")
    }
    for name in ("tokenizer.json", "tokenizer_config.json"):
        server.files[f"tests/tokenizer/{name}"] = (tiny_model("siglip") / name).read_bytes()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def online(hub: Hub, run_alone: Run, tmp_path: Path) -> Run:
    """`zsclip` as a process that takes our hub for the real one."""
    port = hub.server_address[1]
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    return lambda *arguments, **more: run_alone(*arguments, **(environment | more))


def test_what_was_fetched_is_used_without_asking_again(hub: Hub, online: Run, photos: Path) -> None:
    fetched = online("models", "fetch", "hf-hub:ann/tiny")
    assert (fetched.returncode, fetched.stdout.count(b"\n")) == (0, 1)
    size = sum(map(len, hub.files.values())) - len(hub.files["ann/tiny/open_clip_config.json"])
    assert f"{size / 1e6:,.1f} MB from ann/tiny, tests/tokenizer".encode() in fetched.stderr
    hub.asked.clear()
    arguments = ("classify", "photos", "--labels", "red,green", "--model", "hf-hub:ann/tiny", "-q")

    first = online(*arguments)
    offline = online(*arguments, "--offline")
    other_labels = online(*arguments[:2], "--labels", "cat,dog", *arguments[4:], HF_HUB_OFFLINE="1")

    assert (first.returncode, first.stderr) == (0, b"")
    assert offline.stdout == first.stdout
    assert other_labels.returncode == 0
    assert hub.asked == []


def test_classify_fetches_what_is_missing(hub: Hub, online: Run, photos: Path) -> None:
    result = online("classify", "photos", "--labels", "red,green", "--model", "hf-hub:ann/tiny", "-q")

    assert (result.returncode, result.stderr) == (0, b"")
    assert any(line.startswith("GET /ann/tiny/") for line in hub.asked)


def test_a_text_tower_of_the_hub_is_asked_for_once_and_offline_never(
    hub: Hub, online: Run, photos: Path, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """A configuration may name a text tower in another repository, which transformers would look up at every start."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("plain"), folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = "some/tower"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    arguments = ("classify", "photos", "--labels", "red,green", "--model", folder)

    offline = online(*arguments, "--offline")

    assert (offline.returncode, hub.asked) == (3, [])
    assert b"some/tower is not on this machine" in offline.stderr
    assert b"some/tower" in online(*arguments).stderr
    assert {line.split(" ")[1] for line in hub.asked} == {"/some/tower/resolve/main/config.json"}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("hf-hub:ann/nothing", {}, "the hub has no ann/nothing"),
        ("hf-hub:ann/tiny", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
        ("hf-hub:ann/tiny", {"HF_HUB_OFFLINE": "1"}, "offline"),
        ("ViT-B-32,openai", {}, "the hub has no timm/"),
    ],
)
def test_a_model_that_is_not_available_is_reported_in_one_line(
    name: str, change: dict[str, str], message: str, online: Run, photos: Path
) -> None:
    result = online("classify", "photos", "--labels", "red,green", "--model", name, **change)

    assert (result.returncode, result.stdout) == (3, b"")
    assert result.stderr.decode().startswith(f"zsclip: model '{name}' is not available: ")
    assert message in result.stderr.decode()
    assert result.stderr.count(b"\n") == 1


def test_a_repository_without_weights_is_reported_in_one_line(hub: Hub, online: Run, photos: Path) -> None:
    del hub.files["ann/tiny/open_clip_model.safetensors"]

    result = online("classify", "photos", "--labels", "red,green", "--model", "hf-hub:ann/tiny")

    assert result.returncode == 3
    assert b"has none of open_clip_model.safetensors, open_clip_pytorch_model.bin" in result.stderr
    assert result.stderr.count(b"\n") == 1


def test_a_download_that_was_cut_off_is_not_taken_for_the_whole(online: Run, photos: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "hub" / "models--ann--tiny" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / ("0" * 64 + ".incomplete")).write_bytes(b"half")

    result = online("classify", "photos", "--labels", "red,green", "--model", "hf-hub:ann/tiny", HF_HUB_OFFLINE="1")

    assert result.returncode == 3
    assert b"not on this machine" in result.stderr
