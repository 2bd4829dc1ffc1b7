"""Fetching a model from servers that behave, and from those that do not: whole and as promised, or an error."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.artefacts.hostile import File, Hostile, hostile

from mainspring.artefacts.sources import download as downloading
from mainspring.artefacts.sources.cache import Cache
from mainspring.artefacts.sources.fetch import Fetched, fetch
from mainspring.artefacts.sources.limits import Limits
from mainspring.artefacts.sources.source import read_source
from mainspring.errors import ArtefactError, EnvironmentError_, InputError, MainspringError

CONTENT = os.urandom(300_000)
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
QUICK = Limits(answer=1.0, silent=1.0, least=1000, over=0.3, attempts=3, progress=50_000, pause=0.01)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    """The server, asked directly."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("MAINSPRING_MODELS_TOKEN", raising=False)
    with hostile() as found:
        yield found


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty cache."""
    return Cache(tmp_path / "cache")


def get(url: str, cache: Cache, digest: str = "", limits: Limits = QUICK, tell: Any = None) -> Fetched:
    """Fetch from a URL."""
    return fetch(read_source(url, Path()), digest, cache, tell or (lambda *_: None), limits)


def test_a_download_is_whole_kept_once_and_told(server: Hostile, cache: Cache) -> None:
    """The second time nothing is sent; progress says bytes of how many; the file can't be written to."""
    url = server.put("/m.onnx", File(CONTENT))
    told: list[tuple[str, int, int | None]] = []
    first = get(url, cache, tell=lambda *one: told.append(one))
    assert (first.digest, first.path.name, first.path.read_bytes()) == (DIGEST, "m.onnx", CONTENT)
    assert first.downloaded
    assert ("downloading", len(CONTENT), len(CONTENT)) in told
    assert first.path.stat().st_mode & 0o222 == 0
    sent = server.sent
    again = get(url, cache)
    assert (again.path, again.downloaded) == (first.path, False)
    assert get(url, cache, DIGEST).path == first.path
    assert server.sent < sent + len(CONTENT)
    (kept,) = cache.listed()
    assert (kept.digest, kept.source, kept.size) == (DIGEST, url, len(CONTENT))
    assert cache.clear() >= len(CONTENT)
    assert (cache.listed(), first.path.exists()) == ((), False)


def test_what_changed_there_is_downloaded_again_unless_it_is_pinned(server: Hostile, cache: Cache) -> None:
    """Another content under the same URL is another digest; who named the digest gets what it is of, or an error."""
    url = server.put("/m.gguf", File(CONTENT))
    get(url, cache)
    server.files["/m.gguf"] = File(b"another")
    assert get(url, cache).path.read_bytes() == b"another"
    assert get(url, cache, DIGEST).path.read_bytes() == CONTENT
    with pytest.raises(ArtefactError, match="not what was promised"):
        get(url, cache, "sha256:" + "0" * 64)
    with pytest.raises(InputError, match="64 hexadecimal"):
        get(url, cache, "md5:abc")


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize(
    "file",
    [
        File(CONTENT, cut=80_000),
        File(CONTENT, busy=2),
        File(CONTENT, framing="chunks"),
        File(CONTENT, to=""),
    ],
    ids=["cut again and again", "busy first", "in chunks", "plain"],
)
def test_servers_that_trouble_a_download_without_harm(
    server: Hostile, cache: Cache, file: File, *, pinned: bool
) -> None:
    """It ends whole, and with no byte twice where the server goes on from where it was cut."""
    found = get(server.put("/m.onnx", replace(file)), cache, DIGEST if pinned else "")
    assert found.path.read_bytes() == CONTENT
    if file.cut:
        assert [one[1] for one in server.asked] == ["", "bytes=80000-", "bytes=160000-", "bytes=240000-"]


@pytest.mark.parametrize("ranges", ["ignored", "other start", "other bytes"])
def test_a_server_that_lies_about_ranges_does_no_harm_to_what_is_pinned(
    server: Hostile, cache: Cache, ranges: str
) -> None:
    """Half a file is there; the rest comes wrong, or from the beginning: what is given out is right all the same."""
    url = server.put("/m.onnx", File(CONTENT, cut=100_000))
    with pytest.raises(EnvironmentError_, match="broke off"):
        get(url, cache, DIGEST, replace(QUICK, attempts=1, progress=1 << 30))
    server.files["/m.onnx"] = File(CONTENT, ranges=ranges)
    assert get(url, cache, DIGEST).path.read_bytes() == CONTENT
    assert "bytes=100000-" in [one[1] for one in server.asked]


def test_parts_of_two_files_are_never_put_together(server: Hostile, cache: Cache) -> None:
    """The content changes between two tries; without a name for it (ETag) nothing is gone on with at all."""
    for tag in ("by content", None, 'W/"weak"'):
        path = f"/{tag and tag[:2]}.onnx".replace('"', "").replace("/", "", 0)
        url = server.put(path, File(CONTENT, tag=tag, cut=100_000))
        with pytest.raises(EnvironmentError_):
            get(url, cache, limits=replace(QUICK, attempts=1, progress=1 << 30))
        other = bytes(reversed(CONTENT))
        server.files[path] = File(other, tag=tag)
        assert get(url, cache).path.read_bytes() == other


def test_a_part_without_a_tag_goes_on_when_the_digest_is_known(server: Hostile, cache: Cache) -> None:
    """The digest proves the whole: the tries add up even where the server has no name for the content."""
    url = server.put("/m.onnx", File(CONTENT, tag=None, cut=120_000))
    assert get(url, cache, DIGEST).path.read_bytes() == CONTENT
    assert [one[1] for one in server.asked] == ["", "bytes=120000-", "bytes=240000-"]


@pytest.mark.parametrize(
    ("file", "kind", "message"),
    [
        (File(CONTENT, framing="too long", ranges="ignored"), EnvironmentError_, "broke off at 300,000 of 300,100"),
        (File(CONTENT, pause=0.05), EnvironmentError_, "bytes/s, which would take for ever"),
        (File(CONTENT, head=0.05), EnvironmentError_, "did not answer within 1 s"),
        (File(CONTENT, to="/m.onnx"), EnvironmentError_, "round in circles"),
        (File(CONTENT, to="file:///etc/passwd"), EnvironmentError_, "302"),
        (File(CONTENT, framing="end"), EnvironmentError_, "doesn't say how long it is"),
        (File(CONTENT, packed=True), EnvironmentError_, "packed as `gzip`"),
        (File(CONTENT, status=404), InputError, "answers 404"),
        (File(CONTENT, status=403), EnvironmentError_, "answers 403"),
        (File(CONTENT, status=500), EnvironmentError_, "answers 500"),
    ],
    ids=[
        "truncated",
        "trickling body",
        "trickling head",
        "loop",
        "to a file",
        "endless",
        "packed",
        "404",
        "403",
        "500",
    ],
)
def test_hostile_servers_end_in_an_error_that_says_what_happened(
    server: Hostile, cache: Cache, file: File, kind: type[MainspringError], message: str
) -> None:
    """Within seconds, and nothing is kept as if it were whole."""
    url = server.put("/m.onnx", replace(file))
    began = time.monotonic()
    with pytest.raises(kind, match=message):
        get(url, cache)
    assert time.monotonic() - began < 15
    assert cache.listed() == ()


def test_a_redirect_is_followed_and_the_token_stays_where_it_was_meant_for(
    server: Hostile, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bearer token of the environment goes to the named address and no further."""
    monkeypatch.setenv("MAINSPRING_MODELS_TOKEN", "secret-1")
    server.put("/there.onnx", File(CONTENT))
    url = server.put("/here.onnx", File(b"", to="/there.onnx"))
    assert get(url, cache).path.read_bytes() == CONTENT
    assert [(one[0], one[2]) for one in server.asked] == [("/here.onnx", "Bearer secret-1"), ("/there.onnx", "")]


def test_a_signed_query_is_kept_nowhere(server: Hostile, cache: Cache) -> None:
    """A signature in a URL gets the file, and stands in no file of the cache and no error."""
    url = server.put("/m.onnx", File(CONTENT)) + "?X-Amz-Signature=geheim"
    assert get(url, cache).shown.endswith("/m.onnx")
    texts = [path.read_bytes() for path in cache.root.rglob("*") if path.is_file() and path.stat().st_size < 10_000]
    assert texts
    assert not any(b"geheim" in text for text in texts)
    server.files["/m.onnx"].status = 404
    with pytest.raises(InputError) as refused:
        get(url + "2", cache)
    assert "geheim" not in str(refused.value)


def test_a_full_disk_is_said_before_and_while_it_happens(
    server: Hostile, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file larger than the room is not begun; a write that fails names the command that makes room, and goes on."""
    url = server.put("/m.onnx", File(CONTENT))
    real = downloading.shutil.disk_usage
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda p: real(p)._replace(free=1000))
    with pytest.raises(EnvironmentError_, match="has room for 1,000") as refused:
        get(url, cache)
    assert refused.value.code == "disk-full"
    monkeypatch.undo()
    wrote = downloading.os.fsync

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloading.os, "fsync", full)
    with pytest.raises(EnvironmentError_, match="No space left"):
        get(url, cache)
    monkeypatch.setattr(downloading.os, "fsync", wrote)
    assert get(url, cache).path.read_bytes() == CONTENT


PROGRAM = """
import json, sys
from pathlib import Path
from mainspring.artefacts.sources.cache import Cache
from mainspring.artefacts.sources.fetch import fetch
from mainspring.artefacts.sources.source import read_source
found = fetch(read_source(sys.argv[1], Path()), sys.argv[3], Cache(Path(sys.argv[2])))
print(json.dumps([str(found.path), found.digest, found.downloaded]))
"""


def _process(url: str, root: Path, digest: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, url, str(root), digest]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("digest", ["", DIGEST], ids=["unpinned", "pinned"])
def test_two_processes_at_once_download_once(server: Hostile, cache: Cache, digest: str) -> None:
    """The second one waits for the first, and both get the same file."""
    gate = threading.Event()
    url = server.put("/m.onnx", File(CONTENT, tag=None, gate=gate))
    both = [_process(url, cache.root, digest) for _ in range(2)]
    _until(lambda: len(server.asked) > 0)
    time.sleep(1.0)  # the other one is at the lock by now
    gate.set()
    answers = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert len({tuple(answer[:2]) for answer in answers}) == 1
    assert sorted(answer[2] for answer in answers) == [False, True]
    assert server.sent <= len(CONTENT)


def test_killed_in_mid_download_the_next_one_goes_on(server: Hostile, cache: Cache) -> None:
    """`kill -9` leaves a part and no lock: the next process asks for the rest only."""
    gate = threading.Event()
    url = server.put("/m.onnx", File(CONTENT, gate=gate))
    process = _process(url, cache.root, "")
    _until(lambda: any(p.stat().st_size >= 100_000 for p in cache.root.glob(".work/*/part")))
    process.kill()
    assert process.communicate(timeout=30)[0] == ""
    gate.set()
    server.files["/m.onnx"] = File(CONTENT)
    assert get(url, cache).path.read_bytes() == CONTENT
    assert server.asked[-1][1].startswith("bytes=1")


def test_a_damaged_entry_is_not_given_out(server: Hostile, cache: Cache) -> None:
    """What was changed in the cache is downloaded again."""
    url = server.put("/m.onnx", File(CONTENT))
    path = get(url, cache).path
    path.chmod(0o644)
    path.write_bytes(b"changed")
    again = get(url, cache, DIGEST)
    assert (again.downloaded, again.path.read_bytes()) == (True, CONTENT)


def test_a_folder_on_the_web(server: Hostile, cache: Cache) -> None:
    """All files that its page lists, below it; the digest is the folder's, and holds the next time."""
    pytest.importorskip("aiohttp", reason="folders on the web need the extra `http`")
    for name, content in (("config.json", b"{}"), ("model.safetensors", CONTENT), ("deep/er.txt", b"x")):
        server.put(f"/hub/tiny/{name}", File(content))
    server.put("/hub/other", File(b"not below"))
    found = get(server.url + "/hub/tiny/", cache)
    assert sorted(p.relative_to(found.path).as_posix() for p in found.path.rglob("*") if p.is_file()) == [
        "config.json", "deep/er.txt", "model.safetensors",
    ]  # fmt: skip
    assert get(server.url + "/hub/tiny/", cache, found.digest).path == found.path


def test_local_sources_are_used_where_they_are(tmp_path: Path) -> None:
    """A path has a digest, which is held to; nothing is copied into the cache."""
    (tmp_path / "m.onnx").write_bytes(CONTENT)
    found = fetch(read_source("m.onnx", tmp_path), DIGEST, Cache(tmp_path / "none"))
    assert (found.digest, found.remote) == (DIGEST, False)
    assert not (tmp_path / "none").exists()
    with pytest.raises(ArtefactError, match="not what was promised"):
        fetch(read_source("m.onnx", tmp_path), "sha256:" + "1" * 64)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("https://anna:geheim@host/m.onnx", "source-secret"), ("s3://AKIA:geheim@bucket/m", "source-secret"),
        ("ftp://host/m", "bad-source"), ("data://x/y", "bad-source"), ("https://host", "bad-source"),
        ("https://host/..", "bad-source"), ("https://host/a%2f..%2fb%00", "bad-source"), ("hf:a", "bad-source"),
        ("hf:a/../../b", "bad-source"), ("mlflow:x", "bad-source"), ("mlflow:http://u:geheim@h:5000/m/1", "bad-source"),
        ("s3://bucket/key?x=1", "bad-source"), ("nothing/here", "source-missing"), ("a\nb", "bad-source"),
    ],
)  # fmt: skip
def test_sources_that_are_none(tmp_path: Path, text: str, code: str) -> None:
    """Refused before anything is fetched, and without saying a secret again."""
    with pytest.raises(InputError) as refused:
        read_source(text, tmp_path)
    assert refused.value.code == code
    assert "geheim" not in refused.value.message + refused.value.hint


def test_sources_that_are_some(tmp_path: Path) -> None:
    """What each form means."""
    hub = read_source("hf:org/Name-1.5/sub/w.gguf@v1.0", tmp_path)
    assert (hub.repo, hub.inside, hub.revision, hub.folder) == ("org/Name-1.5", "sub/w.gguf", "v1.0", False)
    assert read_source("hf:org/name", tmp_path).folder
    assert read_source("https://h/a/b/?sig=1", tmp_path).shown == "https://h/a/b/"
    there = read_source("mlflow:sqlite:////a/b.db/late/3", tmp_path)
    assert (there.url, there.repo, there.revision) == ("sqlite:////a/b.db", "late", "3")


def _until(true: Any, patience: float = 30.0) -> None:
    until = time.monotonic() + patience
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)
