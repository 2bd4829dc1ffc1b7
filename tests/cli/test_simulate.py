"""`mainspring simulate`: a table of 80 columns, JSON, a page, exit statuses, and mistakes in words."""

from __future__ import annotations

import gzip
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mainspring.cli.output import Options
from mainspring.cli.simulate import clock, simulate
from mainspring.errors import InputError, ObjectiveNotMet

STACK = """\
mainspring: 1
stack: shop
compute: {{laptop: {{machine: this}}}}
orchestration: {{where: laptop}}
serving:
  chat:
    model: chat@champion
    runtime: llamacpp
    replicas: {replicas}
    slots: 4
    objective: {{ttft: {ttft}}}
    {more}
  mail: {{model: chat@champion, runtime: llamacpp, replicas: 2}}
pipelines:
  chat: {{produces: chat, weights: a.gguf}}
"""


def asked(folder: Path, *words: str, replicas: str = "0..4", ttft: str = "2s", more: str = "") -> Result:
    """The verb with these words; raises what it raises."""
    file = folder / "mainspring.yaml"
    (folder / "a.gguf").write_bytes(b"GGUF")
    file.write_text(STACK.format(replicas=replicas, ttft=ttft, more=more or "queue: 512"))
    options = Options(color=False, file=file)
    got = CliRunner().invoke(simulate, ["--endpoint", "chat", *words], obj=options, standalone_mode=False)
    if got.exception:
        raise got.exception
    return got


HOUR = ("--rate", "1/s", "--for", "1h", "--load", "5s")


def test_a_table(tmp_path) -> None:
    """80 columns; what came, waits, replicas, what it rests on, and each change with its reason."""
    got = asked(tmp_path, *HOUR, "--shape", "burst", "--price", "$2/h")
    assert max(map(len, got.stdout.splitlines())) <= 80
    assert "had a slot within 1 s" in got.stdout
    assert "0 → 1: " in got.stdout
    assert "assumed" in got.stdout
    assert "$" in got.stdout
    assert "requests in 1 h, in virtual time" in got.stderr


def test_json_is_the_same_each_time(tmp_path) -> None:
    """All figures as data, with series of one step; the same seed gives the same, another does not."""
    first, again = (json.loads(asked(tmp_path, *HOUR, "-o", "json").stdout) for _ in range(2))
    assert first == again
    assert first["endpoint"] == "chat"
    assert first["dollars"] is None
    series = first["series"]
    assert {len(series[name]) for name in ("want", "ready", "waiting", "running", "rate")} == {60}
    assert sum(series["rate"]) * 60 == pytest.approx(first["requests"], abs=1)
    assert first["changes"][0]["why"]
    other = json.loads(asked(tmp_path, *HOUR, "-o", "json", "--seed", "2").stdout)
    assert other["requests"] != first["requests"]


def test_a_page(tmp_path) -> None:
    """A page without script or reference, with four plots on one axis, and text escaped."""
    out = tmp_path / "sub" / "day.html"
    asked(tmp_path, *HOUR, "--out", str(out))
    text = out.read_text()
    HTMLParser().feed(text)
    assert text.count("<svg") == 4
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert "0 → 1" in text


def test_a_trace(tmp_path) -> None:
    """Plain or packed; twice as fast is half as long."""
    path = tmp_path / "t.csv.gz"
    rows = "\n".join(f"{at},500,50" for at in range(0, 1200, 2))
    path.write_bytes(gzip.compress(f"arrival,prompt,output\n{rows}\n".encode()))
    found = json.loads(asked(tmp_path, "--trace", str(path), "--speed-up", "2", "--load", "2s", "-o", "json").stdout)
    assert found["requests"] == 600
    assert found["seconds"] == pytest.approx(600.0)


def test_calibrated(tmp_path) -> None:
    """What a bench measured takes the place of the assumption."""
    result = {"answered": 10, "answered_per_second": 1.0, "tokens": {"prompt": 1000, "cached": 0, "output": 300},
              "ttft_service": {"p50": {"value": 0.1}}, "service": {"mean": 1.0}}  # fmt: skip
    (tmp_path / "b.json").write_text(json.dumps(result))
    got = asked(tmp_path, *HOUR, "--bench", str(tmp_path / "b.json"))
    assert "measured (b.json): 1,000 prompt tokens/s, 30 ms a token" in " ".join(got.stdout.split())


def test_schedules_and_traffic_of_the_file(tmp_path) -> None:
    """The file's own traffic is what comes where nothing is said, and its schedule holds replicas ready."""
    more = "traffic: {requests: 1800/h, prompt: 100, output: 10}\n    "
    more += "scale: {schedule: [{from: '00:00', until: '00:30', least: 3}]}"
    found = json.loads(asked(tmp_path, "--for", "1h", "--shape", "steady", "-o", "json", more=more).stdout)
    assert 1500 < found["requests"] < 2100
    assert found["series"]["want"][10] == 3
    assert found["series"]["want"][50] < 3


def test_an_objective_that_is_missed(tmp_path) -> None:
    """The figures are shown, and the exit status is 3."""
    with pytest.raises(ObjectiveNotMet, match="had a slot within"):
        asked(tmp_path, "--rate", "20/s", "--for", "30m", replicas="1..2")


@pytest.mark.parametrize(
    ("words", "more", "says"),
    [
        (["--endpoint", "chta", *HOUR], {}, "no endpoint `chta`"),
        (["--endpoint", "mail", *HOUR], {}, "`serving.mail.replicas` is `2`, not a range"),
        ([], {}, "nothing says what comes"),
        (["--rate", "5"], {}, "`5` is not a rate"),
        (["--rate", "1/s", "--for", "1 fortnight"], {}, "not a duration"),
        (["--rate", "1/s", "--for", "90d"], {}, "not between 1s and 14d"),
        (["--rate", "9000/s"], {}, "more than 5,000,000"),
        (["--rate", "1/s", "--speed-up", "0"], {}, "not more than nothing"),
        (["--trace", "gone.csv"], {}, "`gone.csv` can't be read"),
        (["--trace", "t.csv", "--rate", "1/s"], {}, "both say what comes"),
        ([*HOUR, "--bench", "gone.json"], {}, "`gone.json` can't be read"),
        ([*HOUR, "--price", "4"], {}, "`4` is not a price"),
    ],
)
def test_mistakes(tmp_path, words, more, says) -> None:
    """Each names the value, and what to do."""
    with pytest.raises(InputError) as caught:
        asked(tmp_path, *words, **more)
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("arrival,prompt,output\n0,1,1\n5,1,1\n4,1,1\n", "t.csv:4: `4,1,1` comes before the line above it"),
        ("", "has 0 request(s)"),
        ("arrival,prompt,output\n", "has 0 request(s)"),
        ("\x00\x01", "no known first line"),
    ],
)
def test_bad_traces(tmp_path, text, says) -> None:
    """Out of order with its line; empty; nothing that is known."""
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        asked(tmp_path, "--trace", str(path))
    assert says in caught.value.message


def test_which_endpoint(tmp_path) -> None:
    """With two endpoints one has to be named."""
    asked(tmp_path, *HOUR)
    options = Options(color=False, file=tmp_path / "mainspring.yaml")
    got = CliRunner().invoke(simulate, list(HOUR), obj=options, standalone_mode=False)
    assert isinstance(got.exception, InputError)
    assert "2 endpoints: chat, mail" in got.exception.message


def test_clock() -> None:
    """Hours, minutes, seconds; days where there are any."""
    assert clock(25_509) == "7:05:09"
    assert clock(86_400 + 60) == "1d 0:01:00"
