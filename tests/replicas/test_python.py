"""A class of the user's own as a replica: what it sees, what it may return, and faults that stay with their request."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mainspring.artefacts.class_score import ClassScorer
from mainspring.artefacts.manifest import Field
from mainspring.errors import ArtefactError, UserCodeError
from mainspring.testing.artefacts import RAW
from mainspring.testing.own_models import class_artefact
from mainspring.testing.serving import Process, Reply, Site, call, infer_body, post_all

PATH = "/v2/models/-/infer"
TYPES = {"hour": "INT64", "distance": "FP64", "carrier": "BYTES"}
ROW = {"hour": 18, "distance": 500.5, "carrier": "UA"}

SOURCE = """
import json
import sys

import numpy as np


class Model:
    def load(self, folder):
        self.weight = json.loads((folder / "weight.json").read_text())

    def predict(self, columns):
        hour, carrier = columns["hour"], columns["carrier"]
        print("rows", len(hour), file=sys.stderr)
        if (hour == 13).any():
            raise ValueError("unlucky")
        if (hour == 14).any():
            sys.exit(1)
        scores = hour * self.weight + np.nan_to_num(columns["distance"]) + np.array([c == "UA" for c in carrier])
        if (hour == 15).any():
            return scores[:-1]
        return np.where(hour == 16, np.nan, scores)
"""


def scorer(tmp_path: Path, body: str, fields: tuple[Field, ...] = RAW) -> ClassScorer:
    """The scorer of a class `Model` with this body."""
    source = "import numpy as np\n\n\nclass Model:\n" + "".join(f"    {line}\n" for line in body.splitlines())
    class_artefact(tmp_path / "a", tmp_path / "code", source, fields=fields)
    return ClassScorer(tmp_path / "a", tmp_path / "code")


COLUMNS = {"hour": [1, 2, 3], "distance": [0.5, None, 2.0], "carrier": ["UA", None, "AA"]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Process]]:
    """A replica of `SOURCE`."""
    with Site(tmp_path_factory.mktemp("python")) as site:
        class_artefact(site.folder / "a", site.folder / "code", SOURCE, fields=RAW, files={"weight.json": b"10"})
        process = replica(site)
        process.wait_ready()
        yield site, process


def replica(site: Site, name: str = "own-1-0", *more: str) -> Process:
    """Start a replica of the artefact `a`."""
    words = ["mainspring.replicas.python", "--artefact", str(site.folder / "a"), "--name", name, "--model", "own",
             "--version", "1", "--code", str(site.folder / "code"), "--batch-size", "16", *more]  # fmt: skip
    return site.start(name, words)


def ask(process: Process, **changed: object) -> Reply:
    """One row."""
    return call(process.address, "POST", PATH, infer_body(ROW | changed, "one", TYPES))


def test_it_answers(served: tuple[Site, Process]) -> None:
    """One row and many, nulls and text are answered as the class says, and the metadata say what it is."""
    _, process = served
    output = ask(process).json()["outputs"][0]
    assert output == {"name": "late", "shape": [1], "datatype": "FP64", "data": [681.5]}
    assert ask(process, distance=None, carrier=None).json()["outputs"][0]["data"] == [180.0]
    assert call(process.address, "GET", "/v2/models/own").json()["platform"] == "python"
    assert call(process.address, "GET", "/v2").json()["name"] == "mainspring-python"


def test_requests_share_a_call(served: tuple[Site, Process]) -> None:
    """Requests that are there together reach `predict` together."""
    site, process = served
    bodies = [infer_body(ROW | {"hour": i % 12}, f"r{i}", TYPES) for i in range(200)]
    replies = asyncio.run(post_all(lambda: process.address, PATH, bodies, at_once=32))
    assert [r.json()["outputs"][0]["data"][0] for r in replies] == [(i % 12) * 10 + 501.5 for i in range(200)]
    sizes = [int(line.split()[1]) for line in process.log.read_text().splitlines() if line.startswith("rows ")]
    assert max(sizes) > 1
    assert max(sizes) <= 16
    assert site.folder.exists()


def test_one_bad_row_fails_alone(served: tuple[Site, Process]) -> None:
    """An exception, an exit, a short answer or a NaN fails the request that it is of, and none beside it."""
    _, process = served
    bad = {3: 13, 4: 14, 5: 15, 6: 16}
    hours = [bad.get(i % 10, i % 12) for i in range(80)]
    bodies = [infer_body(ROW | {"hour": hour}, f"b{i}", TYPES) for i, hour in enumerate(hours)]
    replies = asyncio.run(post_all(lambda: process.address, PATH, bodies, at_once=30))
    assert [r.status for r in replies] == [500 if hour in bad.values() else 200 for hour in hours]
    says = [replies[i].json()["error"] for i in bad]
    assert says[0] == "`own_model:Model.predict` raised ValueError: unlucky"
    assert says[1] == "`own_model:Model.predict` raised SystemExit: 1"
    assert says[2].endswith("returned an array of shape (0,) for 1 row: return a number for each row")
    assert says[3].endswith("returned `nan` for row 1 of 1: an answer must be a finite number")
    assert ask(process).status == 200


def test_it_stops_cleanly(served: tuple[Site, Process]) -> None:
    """SIGTERM ends it with status 0."""
    site, _ = served
    process = replica(site, "own-1-1", "--drain", "5")
    process.wait_ready()
    assert ask(process).status == 200
    assert process.stop() == 0
    assert not process.announce.exists()


def test_a_class_that_can_not_be_loaded_ends_it(tmp_path: Path) -> None:
    """`load` raises: the process ends with status 2 and says what was raised where."""
    with Site(tmp_path / "site") as site:
        class_artefact(site.folder / "a", site.folder / "code", SOURCE, fields=RAW)
        process = replica(site)
        assert process.popen.wait(20) == 2
        assert "error: `own_model:Model.load` raised FileNotFoundError" in process.log.read_text()


def test_another_version_than_the_chosen_one_is_not_run(tmp_path: Path) -> None:
    """With the digest of another version the process ends with status 2 before anything of the class runs."""
    with Site(tmp_path / "site") as site:
        class_artefact(site.folder / "a", site.folder / "code", "print('it ran')\n" + SOURCE, fields=RAW)
        process = replica(site, "own-1-0", "--digest", "sha256:" + "0" * 64)
        assert process.popen.wait(20) == 2
        log = process.log.read_text()
        assert "which was chosen" in log
        assert "it ran" not in log


# --- what the class sees


def test_types_follow_the_manifest(tmp_path: Path) -> None:
    """A column's type depends on the manifest alone, never on whether this batch has a null; a large id is exact."""
    fields = (Field("id", "INT64", nullable=False), Field("flag", "BOOL", nullable=False), Field("n", "INT64"),
              Field("x", "FP32"), Field("text", "BYTES"))  # fmt: skip
    body = "def predict(self, columns):\n    Model.seen.append(columns)\n    return columns['id'] % 10\nseen = []"
    made = scorer(tmp_path, body, fields)
    many = {"id": [2**53 + 1, 4], "flag": [True, False], "n": [1, None], "x": [0.1, None], "text": ["a", None]}
    assert made.score(many).tolist() == [3.0, 4.0]
    assert made.score({name: values[:1] for name, values in many.items()}).tolist() == [3.0]
    seen = type(made._predict.__self__).seen
    for columns in seen:
        assert {name: str(array.dtype) for name, array in columns.items()} == {
            "id": "int64", "flag": "bool", "n": "float64", "x": "float64", "text": "object",
        }  # fmt: skip
    assert int(seen[0]["id"][0]) == 2**53 + 1
    assert math.isnan(seen[0]["n"][1])
    assert seen[0]["text"].tolist() == ["a", None]


def test_rows_one_by_one(tmp_path: Path) -> None:
    """With `batch = False` each call gets one row as plain values, None for null, and returns one number."""
    body = "batch = False\ndef predict(self, row):\n    return len(repr(row))"
    made = scorer(tmp_path, body)
    rows = [{"hour": 1, "distance": 0.5, "carrier": "UA"}, {"hour": 2, "distance": None, "carrier": None},
            {"hour": 3, "distance": 2.0, "carrier": "AA"}]  # fmt: skip
    assert made.score(COLUMNS).tolist() == [float(len(repr(row))) for row in rows]


@pytest.mark.parametrize(("batch", "calls"), [("True", [3]), ("2", [2, 1]), ("1", [1, 1, 1]), ("64", [3])])
def test_the_most_rows_of_a_call(tmp_path: Path, batch: str, calls: list[int]) -> None:
    """`batch = N` never gives `predict` more than N rows; no rows are no call."""
    body = (
        f"batch = {batch}\nseen = []\ndef predict(self, c):\n    self.seen.append(len(c['hour']))\n    return c['hour']"
    )
    made = scorer(tmp_path, body)
    assert made.score(COLUMNS).tolist() == [1.0, 2.0, 3.0]
    assert made._predict.__self__.seen == calls
    assert made.score({"hour": [], "distance": [], "carrier": []}).tolist() == []


# --- what it may return


@pytest.mark.parametrize(
    ("returned", "numbers"),
    [
        ("[1, 2, 3]", [1, 2, 3]),
        ("(True, False, True)", [1, 0, 1]),
        ("np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])", [0.1, 0.2, 0.3]),
        ("np.array([[1], [2], [3]], dtype='float32')", [1, 2, 3]),
        ("__import__('pandas').Series([1, 2, 3])", [1, 2, 3]),
        ("np.array([1, 2.5, True], dtype=object)", [1, 2.5, 1]),
    ],
)
def test_what_may_be_returned(tmp_path: Path, returned: str, numbers: list[float]) -> None:
    """Lists, arrays and pandas are taken; of a classifier's probabilities the last column."""
    assert scorer(tmp_path, f"def predict(self, c):\n    return {returned}").score(COLUMNS).tolist() == numbers


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("None", "returned `None`, which is not a number"),
        ("['late', 'on time', 'late']", "returned `'late'`, which is not a number: return a probability"),
        ("[1, None, 2]", "returned `None`, which is not a number"),
        ("1.0", "returned one number for 3 rows: return an array, or write `batch = False`"),
        ("[1, 2]", "returned an array of shape (2,) for 3 rows"),
        ("[[1, 2], [3], [4]]", "whose rows are not of one length"),
        ("np.zeros((3, 2, 2))", "shape (3, 2, 2) for 3 rows"),
        ("np.zeros((3, 0))", "shape (3, 0) for 3 rows"),
        ("[1, float('nan'), 2]", "returned `nan` for row 2 of 3"),
        ("[1, 2, float('inf')]", "returned `inf` for row 3 of 3"),
        ("[1j, 2, 3]", "which is not a number"),
        ("{'late': [1, 2, 3]}", "returned a `dict`, which is not a number"),
    ],
)
def test_what_may_not_be_returned(tmp_path: Path, returned: str, says: str) -> None:
    """An answer that is not a finite number for each row is refused, with what to do instead."""
    made = scorer(tmp_path, f"def predict(self, c):\n    return {returned}")
    with pytest.raises(UserCodeError) as error:
        made.score(COLUMNS)
    assert says in error.value.message
    assert error.value.message.startswith("`own_model:Model.predict` ")


# --- what it must be


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("pass", "`own_model:Model` has no method `predict(self, columns)`"),
        ("predict = 3", "`own_model:Model` has no method `predict(self, columns)`"),
        (
            "def predict(self):\n    return 1",
            "has no method `predict(self, columns)`: the one that it has can't take it",
        ),
        ("def predict(self, a, b):\n    return a", "has no method `predict(self, columns)`: the one that it has"),
        ("async def predict(self, c):\n    return c", "`own_model:Model.predict` is `async`"),
        ("def load(self):\n    pass\ndef predict(self, c):\n    return c", "no method `load(self, folder)`: the one"),
        ("def __init__(self, size):\n    pass\ndef predict(self, c):\n    return c", "is made without arguments"),
        (
            "def __init__(self):\n    1 / 0\ndef predict(self, c):\n    return c",
            "`own_model:Model.__init__` raised Zero",
        ),
        ("batch = 0\ndef predict(self, c):\n    return c", "`own_model:Model.batch` is `0`: write True, False, or"),
        ("batch = 'all'\ndef predict(self, c):\n    return c", "`own_model:Model.batch` is `'all'`"),
    ],
)
def test_a_class_that_is_not_as_it_must_be(tmp_path: Path, body: str, says: str) -> None:
    """A wrong class is refused when it is loaded, by the name of what is wrong."""
    with pytest.raises(UserCodeError) as error:
        scorer(tmp_path, body)
    assert says in error.value.message


def test_static_and_class_methods_will_do(tmp_path: Path) -> None:
    """`predict` may be a static or a class method."""
    for number, body in enumerate(
        ("@staticmethod\ndef predict(columns):\n    return columns['hour']",
         "@classmethod\ndef predict(cls, columns):\n    return columns['hour']"),
    ):  # fmt: skip
        assert scorer(tmp_path / str(number), body).score(COLUMNS).tolist() == [1.0, 2.0, 3.0]


def test_names_that_are_no_class(tmp_path: Path) -> None:
    """A missing name and a function are told apart."""
    source = "def Model():\n    pass\n"
    class_artefact(tmp_path / "a", tmp_path / "code", source, fields=RAW)
    with pytest.raises(UserCodeError, match="is a function, and must be a class"):
        ClassScorer(tmp_path / "a", tmp_path / "code")
    class_artefact(tmp_path / "b", tmp_path / "code", source, "own_model:Other", fields=RAW)
    with pytest.raises(UserCodeError, match="`own_model` has no class `Other`"):
        ClassScorer(tmp_path / "b", tmp_path / "code")


def test_what_was_changed_is_not_run(tmp_path: Path) -> None:
    """Changed files, changed code and another format are refused before anything of the user's runs."""
    ran = tmp_path / "ran"
    source = f"open({str(ran)!r}, 'w').close()\n\n\nclass Model:\n    def predict(self, c):\n        return c['hour']\n"
    manifest = class_artefact(tmp_path / "a", tmp_path / "code", source, fields=RAW, files={"w": b"1"})
    (tmp_path / "a" / "model" / "w").write_bytes(b"2")
    with pytest.raises(ArtefactError, match="its digest differs"):
        ClassScorer(tmp_path / "a", tmp_path / "code")
    (tmp_path / "a" / "model" / "w").write_bytes(b"1")
    code = tmp_path / "code" / manifest.code / "own_model.py"
    code.write_text(source + "\n")
    with pytest.raises(ArtefactError, match="has been changed"):
        ClassScorer(tmp_path / "a", tmp_path / "code")
    assert not ran.exists()
    code.write_text(source)
    assert ClassScorer(tmp_path / "a", tmp_path / "code").score(COLUMNS).tolist() == [1.0, 2.0, 3.0]
    assert ran.exists()
    other = json.loads((tmp_path / "a" / "manifest.json").read_text()) | {"format": "mlflow", "entry": ""}
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(other))
    with pytest.raises(ArtefactError, match="holds no Python class"):
        ClassScorer(tmp_path / "a", tmp_path / "code")


def test_arrays_are_its_own(tmp_path: Path) -> None:
    """A class that writes into its arrays changes nothing for the next call."""
    body = "def predict(self, c):\n    c['hour'] += 1\n    return c['hour']"
    made = scorer(tmp_path, body)
    given = {"hour": np.array([1, 2]), "distance": np.array([1.0, 2.0]), "carrier": ["a", "b"]}
    assert made.score(given).tolist() == [2.0, 3.0]
    assert given["hour"].tolist() == [1, 2]
