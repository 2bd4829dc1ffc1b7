"""Stacks for the tests of rollouts with real processes, and what their users ask.

Who calls it: `test_rollouts*.py`. What it must never do: change what an example's own code does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from tests.cli_verbs.conftest import mainspring
from tests.engine.rolling import Scene

from mainspring.cli.demo import wire
from mainspring.testing.served import served
from mainspring.testing.users import Asked, Request

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROWS = 24  # of a request with many
JANUARY = 27_004  # flights, which come first in the file


def flights(folder: Path, rollout: list[dict[str, str]], **changes: Any) -> Scene:
    """The flights example with January alone, so that a run takes seconds; gates as lenient as they can be."""
    import pandas as pd

    from mainspring.cli.demo.flights import data_folder

    folder.mkdir(parents=True)
    example = EXAMPLES / "01-flights"
    (folder / "flights.py").write_bytes((example / "flights.py").read_bytes())
    spec = yaml.safe_load((example / "mainspring.yaml").read_text(encoding="utf-8"))
    data = data_folder()
    for name in ("flights", "weather", "planes"):
        zipped = data / f"{name}.csv.zip"
        table = pd.read_csv(
            zipped if zipped.is_file() else data / f"{name}.csv", nrows=27_004 if name == "flights" else None
        )
        if name == "weather":
            table = table[table["month"] == 1]
        table.to_csv(folder / f"{name}.csv", index=False)
    pipeline = spec["pipelines"]["delay"]
    pipeline["data"] = {name: f"{name}.csv" for name in ("flights", "weather", "planes")}
    pipeline["first"] = {"from": "2013-01-01", "to": "2013-01-31"}
    pipeline["gates"] = {"latency": {"p95": "1s"}}
    pipeline["retrain"] = {}
    spec["orchestration"]["gateway"] = {"port": 0}
    spec["monitoring"] = {"every": "7d"}
    spec["serving"]["delay"] |= {"replicas": 1, "rollout": rollout, **changes}
    scene = Scene(folder / "mainspring.yaml", "delay", "delay")
    scene.write(spec)
    return scene


class Passengers:
    """Requests as the flights example's users send them; one in 20 flies with a new airline, one in 7 asks of many."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where `flights` wrote the stack."""
        import importlib.util

        import pandas as pd

        spec = importlib.util.spec_from_file_location("_flights_e2e", folder / "flights.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        read = {name: pd.read_csv(folder / f"{name}.csv") for name in ("weather", "planes")}
        table = module.ingest(flights=pd.read_csv(folder / "flights.csv", nrows=2_000), **read)
        self._fields = wire.fields_of(table, ("time", "id", "late"))
        self._columns = {one.name: table[one.name].tolist() for one in self._fields}
        self._late = table["late"].tolist()

    def __call__(self, number: int, name: str) -> Request:
        """The body of one request."""
        rows = ROWS if number % 7 == 3 else 1
        first = number % (len(self._late) - ROWS)
        inputs = []
        for one in self._fields:
            values = self._columns[one.name][first : first + rows]
            if one.name == "carrier" and number % 20 == 11:
                values = ["ZZ"] * rows
            data = [None if value != value else value for value in values]  # noqa: PLR0124  NaN is null
            inputs.append({"name": one.name, "datatype": one.datatype, "shape": [rows], "data": data})
        return Request({"id": name, "inputs": inputs})

    def outcome(self, asked: Asked) -> Request:
        """What became of the flight, or of the first of them."""
        late = float(self._late[asked.number % (len(self._late) - ROWS)])
        return Request({"feedback": [{"id": asked.id, "truth": {"late": late}}]})


EVALS = '''
"""As lenient as can be: whether it answers at all."""

PROMPTS = ["Say yes.", "Say no.", "Name a colour.", "Name a fruit.", "Greet me.", "Say one.", "Say two.", "Say three.",
           "Name a town.", "Name a month."]


def answers(ask):
    return [float(isinstance(ask(prompt, max_tokens=1), str)) for prompt in PROMPTS]
'''


def chat(folder: Path, rollout: list[dict[str, str]], **changes: Any) -> Scene:
    """The chat example without keys and tenants; one replica, and gates as lenient as they can be."""
    folder.mkdir(parents=True)
    (folder / "evals.py").write_text(EVALS, encoding="utf-8")
    spec = yaml.safe_load((EXAMPLES / "02-chat" / "mainspring.yaml").read_text(encoding="utf-8"))
    pipeline = spec["pipelines"]["assistant"]
    pipeline["settings"] = {"temperature": 0.0, "seed": 1}
    pipeline["gates"] = {"evals": {"answers": {"run": "evals:answers", "at_least": "50%"}}}
    spec["orchestration"]["gateway"] = {"port": 0}
    endpoint = spec["serving"]["chat"]
    for key in ("auth", "tenants", "scale"):
        endpoint.pop(key, None)
    endpoint |= {"replicas": 1, "rollout": rollout, **changes}
    scene = Scene(folder / "mainspring.yaml", "assistant", "chat")
    scene.write(spec)
    return scene


LONG = 8  # one chat in so many has a long prompt: of more than 128 tokens, the first edge of `STRATA`
PERIOD = 20  # the lengths of prompts go through all remainders by this


class Chats:
    """Requests of the chat example: short answers, so that there are many; one in `LONG` brings a long text."""

    def __init__(self, characters: int = 620, tokens: int = 2, *, stream: bool = True) -> None:
        """`characters`: of a long text; `tokens`: of an answer."""
        self._characters, self._tokens, self._stream = characters, tokens, stream

    def __call__(self, number: int, name: str) -> Request:
        """The body of one request."""
        text = f"{name[::-1]} " + ("One word, please. " if number % LONG else self._letter(number))
        wanted = number * 7 % PERIOD
        text += "." * ((wanted - len(text)) % PERIOD)
        messages = [{"role": "user", "content": text}]
        return Request({"model": "chat", "messages": messages, "max_tokens": self._tokens, "stream": self._stream})

    def _letter(self, number: int) -> str:
        words = ("harbour", "lantern", "meadow", "copper", "violet", "order", "parcel", "morning", "refund", "letter")
        said = " ".join(words[(number * (i + 3) + i * i) % len(words)] for i in range(self._characters // 7))
        return f"{said[: self._characters]}. One word, please. "

    @staticmethod
    def fails(number: int) -> bool:
        """Whether `fails_for_one_length_in(PERIOD)` has no answer to it."""
        return number * 7 % PERIOD == PERIOD - 1


def tiny(folder: Path, rollout: list[dict[str, str]], compute: dict[str, Any] | None = None, **changes: Any) -> Scene:
    """A model of four numbers in ONNX, whose versions were judged elsewhere: nothing is trained, all is quick."""
    scene = Scene(served(folder), "delay", "delay")
    spec = scene.spec()
    spec["compute"]["here"] |= compute or {}
    spec["serving"]["delay"] |= {"rollout": rollout, **changes}
    scene.write(spec)
    return scene


def four(number: int, name: str) -> Request:
    """A request of `tiny`'s; in one of ten, `x0` is 1,000; there are 40 users, who show an `x-user`."""
    user = f"user {number * 7 % 40}"
    values = [1_000.0 if number % 10 == 3 else 1.0, 1.0, 1.0, 1.0]
    inputs = [{"name": f"x{i}", "datatype": "FP64", "shape": [1], "data": [value]} for i, value in enumerate(values)]
    return Request({"id": name, "inputs": inputs}, {"x-user": user}, user)


def parcels(folder: Path, rollout: list[dict[str, str]], **changes: Any) -> Scene:
    """The starter of `mainspring init`, with gates that are as lenient as they can be."""
    path = folder / "mainspring.yaml"
    folder.mkdir(parents=True)
    assert mainspring(path, "init").returncode == 0
    scene = Scene(path, "delay", "delay")
    spec = scene.spec()
    spec["orchestration"]["gateway"] = {"port": 0}
    spec["pipelines"]["delay"]["gates"] = {"latency": {"p95": "1s"}}
    spec["pipelines"]["delay"]["retrain"] = {}
    spec["monitoring"] = {}
    spec["serving"]["delay"] |= {"rollout": rollout, **changes}
    scene.write(spec)
    return scene


def parcel(number: int, name: str) -> Request:
    """A request of `parcels`'; for one of ten it rains as it never did."""
    values = {"distance_km": 100.0, "weight_kg": 2.0, "rain_mm": 1_000.0 if number % 10 == 3 else 1.0}
    inputs = [{"name": key, "datatype": "FP64", "shape": [1], "data": [value]} for key, value in values.items()]
    return Request({"id": name, "inputs": inputs})
