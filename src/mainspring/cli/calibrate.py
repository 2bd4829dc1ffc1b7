"""`mainspring calibrate`: fit the forecasts to measurements of one's own endpoint. Who calls it: `cli/main.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mainspring.cli.output import Options, emit, pass_options, talk
from mainspring.cli.reading import first_bytes
from mainspring.errors import InputError

OUT = "mainspring.coefficients.json"
MOST = 32 * 2**20
"""Bytes of measurements that are read at most."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.csv")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True, help="Where to write the fit.")
@pass_options
def calibrate(options: Options, file: Path, out: Path) -> None:
    """Fit the forecasts to measurements of your own endpoint, on top of what is built in.

    FILE.csv has one row a run with a constant number of requests in flight: backend (vllm, trtllm, sglang), model_path,
    system (the GPU), isl and osl (tokens in and out), batch_size (requests in flight), tp_size, silicon_ttft_ms,
    silicon_tpot_ms; and may have backend_version, precision, kv_precision, attention_dp_size, moe_tp_size,
    moe_ep_size, drawn (mean length over isl and osl) and burst (share of the requests that came at once at the start).
    """
    from mainspring.forecast.accuracy import by, errors, mean
    from mainspring.forecast.calibrate import calibrate as fit
    from mainspring.forecast.coefficients import builtin
    from mainspring.forecast.measurements import names, read

    points = read(_text(file), file.name)
    prior = builtin()
    found = fit(points, prior, source=f"{prior.source}; {len(points)} measurements of {file.name}")
    before, after = errors(points, prior), errors(points, found)
    known = names(points)
    rows: list[dict[str, Any]] = [
        {"group": known[was.name], "points": was.points, "before": _told(was), "after": _told(now)}
        for was, now in zip(by(before, lambda one: one.group), by(after, lambda one: one.group), strict=True)
    ]
    whole = {"points": len(points), "before": _told(mean("", before)), "after": _told(mean("", after))}
    _write(out, found.text())
    if options.output != "table":
        emit({"file": str(out), "groups": rows, "all": whole}, options.output)
        return
    emit(
        [
            {
                "group": row["group"],
                "points": row["points"],
                **{f"{time}_{when}": f"{row[when][time]:.1f} %" for time in ("tpot", "ttft") for when in WHEN},
            }
            for row in [*rows, {"group": "all", **whole}]
        ],
        "table",
        ["group", "points", *((f"{time} {when}", f"{time}_{when}") for time in ("tpot", "ttft") for when in WHEN)],
    )
    talk(f"wrote `{out}`: mean errors are on the points of the fit itself, so new points will be further off")


WHEN = ("before", "after")


def _told(some: object) -> dict[str, float]:
    return {name: round(float(getattr(some, name)), 2) for name in ("tpot", "e2e", "ttft")}


def _text(file: Path) -> str:
    hint = "mainspring calibrate --help"
    data = first_bytes(file, MOST + 1, shown=str(file), code="bad-measurements", hint=hint)
    if len(data) > MOST:
        raise InputError("bad-measurements", f"`{file}` is larger than {MOST >> 20} MiB", hint)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("bad-measurements", f"`{file}` can't be read: it is not UTF-8 text", hint) from error


def _write(out: Path, text: str) -> None:
    from mainspring.pipelines.files import write_whole

    try:
        write_whole(out, text.encode())
    except OSError as error:
        raise InputError("bad-out", f"can't write `{out}`: {error.strerror}", "mainspring calibrate --help") from error
