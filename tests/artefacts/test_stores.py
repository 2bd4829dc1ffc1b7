"""S3 and the Hugging Face hub by their own real clients, against small servers of ours that speak their protocols."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from mainspring.artefacts.sources.cache import Cache
from mainspring.artefacts.sources.fetch import Fetched, fetch
from mainspring.artefacts.sources.limits import Limits
from mainspring.artefacts.sources.source import read_source
from mainspring.errors import EnvironmentError_, InputError

WEIGHTS = os.urandom(3_000_000)
QUICK = Limits(silent=5.0, attempts=3, pause=0.01)
COMMIT = "c" * 40


@dataclass
class Store:
    """What a server has, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range
    agents: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)  # Authorization
    fail_after: int = 0  # GETs of content that go well before all the others fail; 0: none fails


@contextlib.contextmanager
def _running(kind: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _say(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.get("length", str(len(content))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _file(self, content: bytes, **headers: str) -> None:
        """Content, or the range of it that was asked for."""
        asked = self.headers.get("Range", "")
        tag = headers["ETag"]
        if self.headers.get("If-Match", tag) != tag:
            self._say(412)
            return
        if self.command == "GET" and self.store.fail_after:
            self.store.fail_after -= 1
            if self.store.fail_after == 0:
                self.store.fail_after = 1
                self._say(400, b"<Error><Code>Broken</Code></Error>")
                return
        status = 200
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            end = min(int(last) + 1 if last else len(content), len(content))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
            status, content = 206, content[int(first) : end]
        if self.command == "HEAD":
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            return
        self._say(status, content, **headers)


def _s3(store: Store) -> type[BaseHTTPRequestHandler]:
    class S3(_Handler):
        def do_GET(self) -> None:
            """Answer HeadObject, GetObject and ListObjectsV2."""
            parts = urlsplit(self.path)
            self.store.asked.append((self.command, unquote(parts.path), self.headers.get("Range", "")))
            bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
            query = parse_qs(parts.query)
            if "list-type" in query:
                self._list(bucket, query.get("prefix", [""])[0], query.get("delimiter", [""])[0])
                return
            content = self.store.files.get(f"{bucket}/{key}")
            if content is None:
                self._say(404, b"<Error><Code>NoSuchKey</Code></Error>" if self.command == "GET" else b"")
                return
            tag = f'"{hashlib.md5(content).hexdigest()}"'
            self._file(content, ETag=tag, Last_Modified="Mon, 30 Nov 2026 00:00:00 GMT")

        do_HEAD = do_GET  # noqa: N815 (the name that the standard library asks for)

        def _list(self, bucket: str, prefix: str, delimiter: str) -> None:
            inside = [key.partition("/")[2] for key in sorted(self.store.files) if key.startswith(f"{bucket}/{prefix}")]
            lines, folders = [], set()
            for key in inside:
                rest = key[len(prefix) :]
                if delimiter and delimiter in rest:
                    folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                    continue
                content = self.store.files[f"{bucket}/{key}"]
                lines.append(
                    f"<Contents><Key>{key}</Key><Size>{len(content)}</Size><LastModified>2026-11-30T00:00:00.000Z"
                    f"</LastModified><ETag>&quot;{hashlib.md5(content).hexdigest()}&quot;</ETag></Contents>"
                )
            lines += [f"<CommonPrefixes><Prefix>{one}</Prefix></CommonPrefixes>" for one in sorted(folders)]
            page = (
                '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                f"<Name>{bucket}</Name><Prefix>{prefix}</Prefix><KeyCount>{len(lines)}</KeyCount>"
                f"<IsTruncated>false</IsTruncated>{''.join(lines)}</ListBucketResult>"
            )
            self._say(200, page.encode(), Content_Type="application/xml")

    S3.store = store
    return S3


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An S3 server on loopback, named in the environment as for every client of S3."""
    pytest.importorskip("s3fs", reason="`s3://` needs the extra `s3`")
    store = Store()
    with _running(_s3(store)) as url:
        for name, value in {
            "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "anna", "AWS_SECRET_ACCESS_KEY": "geheim",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        yield store


def get(text: str, cache: Cache, digest: str = "") -> Fetched:
    """Fetch, patiently enough for a test."""
    return fetch(read_source(text, Path()), digest, cache, limits=QUICK)


def test_a_file_of_s3_in_ranges_and_once(s3: Store, tmp_path: Path) -> None:
    """It comes in pieces, each of the same content; the second time nothing is read."""
    s3.files["models/late/model.onnx"] = WEIGHTS
    cache = Cache(tmp_path)
    found = get("s3://models/late/model.onnx", cache)
    assert (found.path.read_bytes(), found.path.name) == (WEIGHTS, "model.onnx")
    assert [one[2] for one in s3.asked if one[2]] == [
        "bytes=0-1048575",
        "bytes=1048576-2097151",
        "bytes=2097152-2999999",
    ]
    before = len([one for one in s3.asked if one[0] == "GET" and one[2]])
    assert not get("s3://models/late/model.onnx", cache).downloaded
    assert len([one for one in s3.asked if one[0] == "GET" and one[2]]) == before
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size < 10_000]
    assert not any(b"geheim" in text for text in texts)
    with pytest.raises(InputError, match="has no files, or doesn't list them"):
        get("s3://models/late/other.onnx", cache)


def test_a_cut_download_of_s3_goes_on(s3: Store, tmp_path: Path) -> None:
    """Two of three ranges came; the next try asks for the third, unless the object is another by then."""
    s3.files["models/m.gguf"] = WEIGHTS
    cache = Cache(tmp_path)
    s3.fail_after = 3
    with pytest.raises(EnvironmentError_, match="cannot be read"):
        get("s3://models/m.gguf", cache)
    s3.fail_after = 0
    s3.asked.clear()
    assert get("s3://models/m.gguf", cache).path.read_bytes() == WEIGHTS
    assert [one[2] for one in s3.asked if one[2]] == ["bytes=2097152-2999999"]

    cache.clear()
    s3.fail_after = 2
    with pytest.raises(EnvironmentError_):
        get("s3://models/m.gguf", cache)
    s3.fail_after = 0
    other = WEIGHTS[::-1]
    s3.files["models/m.gguf"] = other
    assert get("s3://models/m.gguf", cache).path.read_bytes() == other


def test_a_folder_of_s3(s3: Store, tmp_path: Path) -> None:
    """With or without a slash at its end; the digest of the folder pins it."""
    for name in ("config.json", "model.safetensors", "deep/er/tokenizer.json"):
        s3.files[f"models/smol/{name}"] = name.encode()
    s3.files["models/smol2/other"] = b"not below"
    found = get("s3://models/smol", Cache(tmp_path))
    names = sorted(p.relative_to(found.path).as_posix() for p in found.path.rglob("*") if p.is_file())
    assert names == ["config.json", "deep/er/tokenizer.json", "model.safetensors"]
    assert get("s3://models/smol/", Cache(tmp_path / "other"), found.digest).digest == found.digest


def _hub(store: Store) -> type[BaseHTTPRequestHandler]:
    class Hub(_Handler):
        def do_GET(self) -> None:
            """Answer what the client asks of a model, and its files."""
            path = unquote(urlsplit(self.path).path)
            store.asked.append((self.command, path, self.headers.get("Range", "")))
            store.agents.append(self.headers.get("User-Agent", ""))
            store.headers.append(self.headers.get("Authorization", ""))
            if path.startswith("/api/models/org/tiny"):
                siblings = [{"rfilename": name} for name in store.files]
                about = {"id": "org/tiny", "modelId": "org/tiny", "sha": COMMIT, "siblings": siblings, "tags": []}
                tree = [{"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                        for name, content in store.files.items()]  # fmt: skip
                self._say(
                    200, json.dumps(tree if "/tree/" in path else about).encode(), Content_Type="application/json"
                )
                return
            name = path.removeprefix(f"/org/tiny/resolve/{COMMIT}/")
            if name not in store.files:
                kind = "EntryNotFound" if "/resolve/" in path and "org/tiny" in path else "RepoNotFound"
                self._say(404, X_Error_Code=kind)
                return
            tag = f'"{hashlib.sha1(store.files[name]).hexdigest()}"'
            self._file(store.files[name], ETag=tag, X_Repo_Commit=COMMIT)

        do_HEAD = do_GET  # noqa: N815 (the name that the standard library asks for)

    Hub.store = store
    return Hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    """A hub on loopback, with one small model."""
    pytest.importorskip("huggingface_hub", reason="`hf:` needs the extra `hf`")
    store = Store()
    store.files = {"config.json": b"{}", "model.safetensors": WEIGHTS, "tokenizer.json": b"{}", ".gitattributes": b"",
                   "pytorch_model.bin": b"a pickle", "gguf/small.gguf": b"GGUF"}  # fmt: skip
    with _running(_hub(store)) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_TOKEN", "hf_geheim")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield store


def test_a_model_of_the_hub_without_its_pickles(hub: Store, tmp_path: Path) -> None:
    """By the hub's own client; the second time only the commit is asked for; no telemetry, no token kept."""
    cache = Cache(tmp_path / "cache")
    found = get("hf:org/tiny", cache)
    names = sorted(p.relative_to(found.path).as_posix() for p in found.path.rglob("*") if p.is_file())
    assert names == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (found.path / "model.safetensors").read_bytes() == WEIGHTS
    assert not any("pytorch_model" in one[1] for one in hub.asked)
    assert "Bearer hf_geheim" in hub.headers
    hub.asked.clear()
    assert not get("hf:org/tiny", cache).downloaded
    assert {one[1] for one in hub.asked} == {"/api/models/org/tiny"}
    texts = [p.read_bytes() for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.stat().st_size < 10_000]
    assert not any(b"geheim" in text for text in texts)
    assert not any("telemetry" in one[1] for one in hub.asked)


def test_one_file_of_the_hub(hub: Store, tmp_path: Path) -> None:
    """A GGUF file among many; what isn't there is said."""
    found = get(f"hf:org/tiny/gguf/small.gguf@{COMMIT}", Cache(tmp_path / "cache"))
    assert (found.path.name, found.path.read_bytes()) == ("small.gguf", b"GGUF")
    for absent in ("hf:org/none", "hf:org/tiny/none.gguf"):
        with pytest.raises(InputError, match="the hub has no"):
            get(absent, Cache(tmp_path / "cache"))


def test_a_hub_that_cannot_be_reached_names_the_other_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many machines have no way out: the error has the two commands that go round it."""
    pytest.importorskip("huggingface_hub", reason="`hf:` needs the extra `hf`")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(EnvironmentError_, match="can't be reached") as refused:
        get("hf:org/tiny", Cache(tmp_path))
    assert "hf download org/tiny" in refused.value.hint
