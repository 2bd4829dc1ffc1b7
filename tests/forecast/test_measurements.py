"""Reading measurements: layouts as they are meant, and every bad row told with its line."""

from __future__ import annotations

import pytest

from mainspring.errors import InputError
from mainspring.forecast.measurements import read

HEADER = (
    "backend,backend_version,model_path,system,precision,isl,osl,batch_size,tp_size,attention_dp_size,moe_tp_size,"
    "moe_ep_size,silicon_ttft_ms,silicon_tpot_ms"
)


def row(**given: object) -> str:
    values: dict[str, object] = {
        "backend": "vllm", "backend_version": "0.19.0", "model_path": "MiniMaxAI/MiniMax-M2.5", "system": "h100_sxm",
        "precision": "fp8", "isl": 1024, "osl": 512, "batch_size": 16, "tp_size": 4, "attention_dp_size": 1,
        "moe_tp_size": 4, "moe_ep_size": 1, "silicon_ttft_ms": 200, "silicon_tpot_ms": 20,
    }  # fmt: skip
    values.update(given)
    return ",".join(str(values[name]) for name in HEADER.split(","))


def one(**given: object):
    return read(f"{HEADER}\n{row(**given)}\n", "mine.csv")[0]


def test_a_row() -> None:
    """Milliseconds become seconds, names become facts."""
    point = one()
    assert (point.ttft, point.tpot, point.concurrency) == (0.2, 0.02, 16)
    assert (point.setup.shape.name, point.setup.gpu.name) == ("minimax-m2.5", "H100-SXM")
    assert point.end_to_end == pytest.approx(0.2 + 511 * 0.02)


@pytest.mark.parametrize(
    ("tp", "copies", "cut", "spread", "meant"),
    [
        (8, 1, 8, 1, (8, 1, 1)),  # plain tensor parallelism
        (8, 1, 1, 8, (8, 1, 8)),  # experts spread over its GPUs
        (64, 1, 8, 8, (8, 1, 8)),  # the same run, squared
        (16, 1, 4, 4, (4, 1, 4)),
        (1, 8, 1, 8, (1, 8, 8)),  # copies of the attention part
        (1, 64, 8, 8, (1, 8, 8)),  # squared
        (4, 4, 1, 16, (1, 4, 4)),  # squared, written the other way
        (1, "", 2, 1, (1, 2, 1)),  # copies not said: the experts are cut over two GPUs
        (2, "", 4, 1, (2, 2, 1)),
        (4, "", 2, 2, (4, 1, 2)),
        (36, 1, 36, 1, (1, 36, 36)),  # beyond a node: a rack
    ],
)
def test_layouts(tp: int, copies: object, cut: int, spread: int, meant: tuple[int, int, int]) -> None:
    """Twins of one run that are written in two ways are read as one layout."""
    setup = one(tp_size=tp, attention_dp_size=copies, moe_tp_size=cut, moe_ep_size=spread).setup
    assert (setup.tp, setup.attention_dp, setup.expert_parallel) == meant


def test_how_the_public_harness_draws() -> None:
    """InferenceMAX draws 0.8 to 1 of its pairs of lengths and starts in a burst; a column may say otherwise."""
    public, own = one(isl=1024, osl=8192), one(isl=1024, osl=512)
    assert (public.mean_prompt, public.mean_output, public.burst) == (pytest.approx(921.6), pytest.approx(7372.8), 0.1)
    assert (own.mean_prompt, own.mean_output, own.burst) == (1024, 512, 0)
    assert public.end_to_end == pytest.approx(0.2 + 8191 * 0.02)  # of a request of nominal length
    said = read(f"{HEADER},drawn,burst\n{row(isl=1024, osl=1024)},1,0.05\n", "mine.csv")[0]
    assert (said.mean_prompt, said.burst) == (1024, 0.05)
    with pytest.raises(InputError, match="not a share"):
        read(f"{HEADER},drawn\n{row()},3\n", "mine.csv")


def test_the_name_of_a_row_settles_its_load() -> None:
    """A row whose name has its batch as the requests in flight of all copies is read so."""
    text = (
        f"id,{HEADER}\nrun_8192x1024_c32_tp8_ep8_1,{row(tp_size=1, attention_dp_size=8, moe_ep_size=8, batch_size=32)}"
    )
    assert read(text, "mine.csv")[0].concurrency == 32


def test_in_flight_of_all_copies() -> None:
    """The batch of a row is that of each copy."""
    point = one(tp_size=1, attention_dp_size=8, moe_tp_size=1, moe_ep_size=8, batch_size=4)
    assert point.concurrency == 32


def test_a_run_counts_once() -> None:
    """The same run in two rows, written in two ways, is one measurement; another time is another."""
    rows = [row(tp_size=8, moe_tp_size=1, moe_ep_size=8), row(tp_size=64, moe_tp_size=8, moe_ep_size=8)]
    assert len(read("\n".join([HEADER, *rows]), "mine.csv")) == 1
    assert len(read("\n".join([HEADER, *rows, row(silicon_ttft_ms=201)]), "mine.csv")) == 2


def test_what_is_not_said() -> None:
    """Without a precision weights are as published, without a version it is unstated, FP4 of gpt-oss is MXFP4."""
    assert one(precision="", model_path="meta-llama/Llama-3.1-8B-Instruct").setup.precision == "bf16"
    assert one(backend_version="").setup.version == "unstated"
    assert one(precision="fp4", model_path="openai/gpt-oss-120b").setup.precision == "mxfp4"


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ({"silicon_ttft_ms": 0}, "bad-measurements", "`silicon_ttft_ms` is `0`"),
        ({"silicon_tpot_ms": -3}, "bad-measurements", "`silicon_tpot_ms` is `-3`"),
        ({"silicon_tpot_ms": "nan"}, "bad-measurements", "`nan`"),
        ({"silicon_ttft_ms": "inf"}, "bad-measurements", "`inf`"),
        ({"isl": ""}, "bad-measurements", "`isl` is ``"),
        ({"batch_size": "many"}, "bad-measurements", "`many`"),
        ({"tp_size": 0}, "bad-measurements", "`tp_size` is `0`"),
        ({"tp_size": 2.5}, "bad-measurements", "not a count"),
        ({"precision": "fp7"}, "bad-measurements", "`fp7`"),
        ({"backend": " "}, "bad-measurements", "`backend` is empty"),
        ({"model_path": "acme/none"}, "unknown-model", "`acme/none`"),
        ({"system": "h900"}, "unknown-gpu", "`h900`"),
    ],
)
def test_bad_rows(given: dict[str, object], code: str, words: str) -> None:
    """A row that can't be true is refused with the file, its line and the value."""
    with pytest.raises(InputError) as caught:
        read(f"{HEADER}\n{row()}\n{row(**given)}\n", "mine.csv")
    assert caught.value.code == code
    assert "`mine.csv` line 3" in caught.value.message
    assert words in caught.value.message


def test_bad_files() -> None:
    """A file without rows, without a column, or with a row of another width is refused."""
    for text, words in (
        ("", "no column"),
        (HEADER, "has no rows"),
        (HEADER.replace("isl,", "") + "\n", "no column `isl`"),
        (f"{HEADER}\n{row()},1\n", "more or fewer fields"),
        (f"{HEADER}\nvllm,1\n", "more or fewer fields"),
    ):
        with pytest.raises(InputError) as caught:
            read(text, "mine.csv")
        assert words in caught.value.message


def test_complaints_instead() -> None:
    """Asked to, reading goes on and tells what it left out."""
    complaints: list[InputError] = []
    points = read(f"{HEADER}\n{row(isl=-1)}\n{row()}\n", "mine.csv", complaints)
    assert len(points) == 1
    assert "line 2" in complaints[0].message


def test_short_names_of_columns() -> None:
    """A person's own file may name its columns shortly."""
    text = "engine,model,gpu,prompt,output,concurrency,tp,ttft_ms,tpot_ms\nvllm,llama-3.1-8b,l4,500,100,4,1,90,30\n"
    point = read(text, "mine.csv")[0]
    assert (point.prompt, point.setup.gpu.name, point.setup.precision) == (500, "L4", "bf16")
