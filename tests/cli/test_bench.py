"""`mainspring bench`: a table of 80 columns, JSON, a page, exit statuses, Ctrl-C, secrets, mistakes in words."""

from __future__ import annotations

import json
import os
import re
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from tests.bench.conftest import Start, seen
from tests.bench.conftest import start as start  # noqa: PLC0414 - a fixture

from mainspring.bench.own import Generator
from mainspring.bench.plan import Plan
from mainspring.bench.samples import Log, Samples
from mainspring.bench.summary import Run, summarise
from mainspring.bench.target import Target
from mainspring.cli import bench_page, bench_table
from mainspring.cli.bench import bench
from mainspring.cli.output import Options
from mainspring.errors import InputError, MainspringError, ObjectiveNotMet

ROOT = Path(__file__).parents[2]
QUICK = ("--rate", "160/s", "--for", "250ms", "--output", "4", "--timeout", "2s")


def asked(*words: str, state: Path | None = None) -> Result:
    """The verb with these words; raises what it raises."""
    options = Options(color=False, file=(state or Path()) / "mainspring.yaml")
    got = CliRunner().invoke(bench, words, obj=options, standalone_mode=False)
    if got.exception:
        raise got.exception
    return got


def test_a_table(start: Start) -> None:
    """80 columns at most; what was sent, percentiles with their intervals, tokens, goodput, errors, notes."""
    address = start("--first", 0.01, "--fault", "http503", "--every", 10).address
    url = f"http://{address}/v1"
    got = asked(url, "--model", "chat", *QUICK, "--objective", "ttft p50 1s", "--even")
    assert max(map(len, got.stdout.splitlines())) <= 80
    assert "40 sent" in got.stdout
    assert re.search(r"^latency ms +36 +\d+(\.\d+)? \(\d+(\.\d+)?-\d+(\.\d+)?\) +- +- ", got.stdout, re.MULTILINE)
    assert "4 http 503: no room" in got.stdout
    assert "goodput: " in got.stdout
    assert "met: ttft p50 within 1 s: 90.0%" in got.stdout
    assert "p95 takes 72, p99 takes 368 requests; there are 36" in got.stdout
    assert f"40 requests in 0.25 s to {url}/chat/completions" in got.stderr


def test_data_formats(start: Start) -> None:
    """`-o json` and `-o yaml` are the same data, and nothing else is on stdout."""
    url = f"http://{start().address}/v1"
    as_json = json.loads(asked(url, "--model", "chat", *QUICK, "-o", "json").stdout)
    as_yaml = yaml.safe_load(asked(url, "--model", "chat", *QUICK, "-o", "yaml").stdout)
    assert set(as_json) == set(as_yaml)
    assert as_json["latency"]["p99"] == {"value": None, "low": None, "high": None, "beyond": None}
    assert as_json["answered"] == as_json["latency"]["samples"] > 20
    assert as_json["limited_by_generator"] in {True, False}


class Looked(HTMLParser):
    """A page's tags and what they point at."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.points: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.points += [str(value) for name, value in attrs if name in {"src", "href", "action"}]


def test_a_page(start: Start, tmp_path: Path) -> None:
    """One file with charts that points at nothing outside and escapes what a server said."""
    report = tmp_path / "new" / "report.html"
    url = f"http://{start('--first', 0.01, '--fault', 'http503', '--every', 10).address}/v1"
    asked(url, "--model", "<chat>", *QUICK, "--objective", "p50 1s", "--report", str(report))
    page, looked = report.read_text(), Looked()
    looked.feed(page)
    assert looked.tags.count("svg") == 2
    assert looked.points == []
    assert "script" not in looked.tags
    assert "<chat>" not in page
    assert "&lt;chat&gt;" in page
    assert "Latency over time, ms" in page
    assert "http 503" in page


def test_kinds_of_load(start: Start, tmp_path: Path) -> None:
    """Closed loop, trace, prompts of a file, whole bodies, fields of one's own: each reaches the server."""
    server = start()
    url, files = f"http://{server.address}", tmp_path
    (files / "trace.csv").write_text("0,5,2\n0.1,6,3\n0.2,7,4\n")
    (files / "prompts.txt").write_text("one\ntwo\n")
    (files / "body.json").write_text('{"inputs": []}')
    got = asked(url, "--model", "m", "--concurrency", "2", "--requests", "6", "--for", "5s", "--no-stream")
    assert "closed loop of 2, for comparison" in got.stdout
    asked(url, "--model", "m", "--trace", str(files / "trace.csv"), "--timeout", "2s")
    asked(
        f"{url}/v1/completions", "--model", "m", "--prompts", str(files / "prompts.txt"), *QUICK, "--set", "top_p=0.5"
    )
    asked(url, "--model", "delay", "--body", str(files / "body.json"), *QUICK)
    came = seen(server)
    assert [one["body"]["max_tokens"] for one in came[6:9]] == [2, 3, 4]
    completions = [one["body"] for one in came if one["path"] == "/v1/completions"]
    assert {one["prompt"] for one in completions} == {"one", "two"}
    assert {one["top_p"] for one in completions} == {0.5}
    assert came[-1]["path"] == "/v2/models/delay/infer"


def test_exit_statuses(start: Start) -> None:
    """0 when it went; 1 when nothing was answered; an objective that was missed is an error of its own (3)."""
    url = f"http://{start('--first', 0.02).address}/v1"
    assert asked(url, "--model", "chat", *QUICK).return_value == 0
    with pytest.raises(ObjectiveNotMet, match="latency p95 within 1 ms"):
        asked(url, "--model", "chat", *QUICK, "--objective", "1ms")
    dead = f"http://{start('--fault', 'http500').address}/v1"
    assert asked(dead, "--model", "chat", *QUICK).return_value == 1


def test_a_token_is_never_shown(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken from the environment, sent, and shown nowhere; given openly it is refused, and not repeated."""
    server = start()
    monkeypatch.setenv("MY_TOKEN", "ms_secret")
    got = asked(f"http://{server.address}/v1", "--model", "chat", *QUICK, "--token", "env:MY_TOKEN", "-o", "json")
    assert "ms_secret" not in got.stdout + got.stderr
    assert seen(server)[0]["headers"]["authorization"] == "bearer ms_secret"
    with pytest.raises(InputError) as caught:
        asked("http://h/v1", "--model", "chat", "--token", "ms_secret")
    assert "ms_secret" not in caught.value.message + caught.value.hint
    with pytest.raises(InputError, match="`NOT_SET` is not set"):
        asked("http://h/v1", "--model", "chat", "--token", "env:NOT_SET")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("http://h/v1",), "which one"),
        (("http://h/v1", "--model", "m", "--rate", "fast"), "`fast` is not a rate"),
        (("http://h/v1", "--model", "m", "--rate", "0/s"), "`0/s`"),
        (("http://h/v1", "--model", "m", "--for", "30"), "`30` is not a duration"),
        (("http://h/v1", "--model", "m", "--rate", "1/s", "--for", "1d", "--warmup", "1d"), "no length of a run"),
        (("http://h/v1", "--model", "m", "--prompt", "long"), "`long`"),
        (("http://h/v1", "--model", "m", "--shared-prefix", "2"), "`2` is no share"),
        (("http://h/v1", "--model", "m", "--objective", "quick"), "`quick`"),
        (("http://h/v1", "--model", "m", "--set", "x"), "`x` is no field"),
        (("http://h/v1", "--model", "m", "--trace", "absent.csv"), "absent.csv"),
        (("http://h/v1", "--model", "m", "--concurrency", "0"), "`0` clients"),
        (("http://h/v1", "--model", "m", "--requests", "0"), "`0` requests"),
        (("http://h/v1", "--model", "m", "--output", "-1"), "`-1` tokens"),
        (("http://h/v2/models/m/infer",), "no prompts"),
        (("http://127.0.0.1:1/v1", "--model", "m"), "nothing answers at `127.0.0.1:1`"),
    ],
)
def test_mistakes_are_told(words: tuple[str, ...], said: str) -> None:
    """Each with its value, and with what to do next."""
    with pytest.raises(MainspringError) as caught:
        asked(*words)
    assert said in caught.value.message
    assert caught.value.hint


def test_ctrl_c_shows_what_there_is(start: Start) -> None:
    """An interrupted run ends within a second, shows its figures, and has the exit status of an interrupt."""
    url = f"http://{start('--first', 0.02).address}/v1"
    command = [
        sys.executable,
        "-m",
        "mainspring.cli.main",
        "bench",
        url,
        "--model",
        "chat",
        "--rate",
        "40/s",
        "--for",
        "60s",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        process.stderr.readline()  # it begins
        time.sleep(0.6)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "stopped with" in out
    assert re.search(r"latency ms +\d+", out)


@contextmanager
def controller(state: Path, status: dict) -> Iterator[None]:
    """Something that answers `/v1/status` on a state folder's socket."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(status).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

        def address_string(self) -> str:
            return "here"

    state.mkdir()
    with socketserver.UnixStreamServer(str(state / "control.sock"), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


def test_an_endpoint_of_this_folder(start: Start, tmp_path: Path) -> None:
    """A name instead of an address is an endpoint of the stack that is up here; one that is not there is told."""
    server = start()
    status = {"endpoints": [{"name": "chat"}], "gateway": {"address": server.address}}
    with controller(tmp_path / ".mainspring", status):
        asked("chat", *QUICK, state=tmp_path)
        with pytest.raises(InputError, match="no endpoint `talk`: there are `chat`"):
            asked("talk", state=tmp_path)
    assert {(one["path"], one["body"]["model"]) for one in seen(server)} == {("/v1/chat/completions", "chat")}
    with pytest.raises(MainspringError, match="no controller is up"):
        asked("chat", state=tmp_path / "elsewhere")


def made(count: int, seconds: float, reasons: tuple[str, ...] = ()) -> Run:
    """A run of `count` requests a second that took `seconds` or so each."""
    log = Log()
    for number in range(count):
        log.begin(number / count, number / count)
        log.sent[number] = number / count + seconds / 2
        log.end[number] = number / count + seconds * (1 + number % 7)
        log.kind[number] = 1
    plan = Plan(np.arange(count) / count, 1.0, says="even arrivals")
    generator = Generator(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.99 if reasons else 0.1, 3, 0)
    samples = Samples.of(log, 0.0)
    return Run(
        Target.of("http://h/v1", model="m" * 90, stream=False), plan, 0, samples, generator, 2.0, False, {}, 0, 0
    )


@pytest.mark.parametrize("count", [1, 500, 200_000])
@pytest.mark.parametrize("seconds", [3e-6, 0.004, 1.23456, 99.0])
def test_any_figures_fit(count: int, seconds: float) -> None:
    """Few requests or many, quick or slow, long names: 80 columns, and a page can be made of it."""
    told = summarise(made(count, seconds))
    assert max(map(len, bench_table.text(told).splitlines())) <= 80
    assert " sent " in bench_table.text(told)  # latency and service time differ, so both are shown
    assert "<svg" in bench_page.page(told)


def test_the_generator_as_the_limit_is_said() -> None:
    """In the table and on the page, in a sentence with its cause."""
    told = summarise(made(100, 0.01, ("busy",)))
    for shown in (bench_table.text(told), bench_page.page(told)):
        assert "limited by the generator: it used 99% of its one core" in " ".join(shown.split())


def test_nothing_answered_is_no_table_of_zeros() -> None:
    """Without an answer there are no figures: `-`, not 0."""
    run = made(3, 0.01)
    run.samples.kind[:] = 0
    text = bench_table.text(summarise(run))
    assert re.search(r"latency ms? +0 +- +- +- +-$|latency µs +0 +- +- +- +-$", text, re.MULTILINE)
