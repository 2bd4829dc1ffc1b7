"""`python -m mainspring.testing.compatibility RESULTS PAGE`: `docs/compatibility.md`, from what the tests saw.

What this is: the results that the conformance suite of runtimes left (one JSON file a runtime) as a page. Who calls it:
`make compatibility`. What it must never do: say of a server what no test has seen; what was not run is not in it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HEAD = """\
# Compatibility

Made by `make compatibility` from the results of `make test-runtimes`: nothing here is written by hand, and nothing is
said of a server that no test has seen. *Version* is what the server says of itself or, where it says nothing, what was
installed; *date* is the day of the run. Each server is the real one, started as `mainspring up` starts it and asked as
the gateway asks it, unless its line says that it is a protocol double.

"""
ABSENT = """
## Not on the machine of this run

"""
DETAIL = """
## What was exercised

Tests of the conformance suite (`mainspring.testing.runtime_conformance`) and of the runtime's own, by server.

"""


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """The page; `results` in any order."""
    ordered = sorted(results, key=lambda one: str(one["runtime"]))
    ran = [one for one in ordered if "absent" not in one and one.get("tests")]
    lines = ["| runtime | server | version | protocol | passed | failed | skipped | date |", "| --- " * 8 + "|"]
    for one in ran:
        counts = [str(_count(one, end)) for end in ("passed", "failed", "skipped")]
        version = one.get("version") or one.get("package") or "not said"
        cells = [f"`{one['runtime']}`", one.get("title", ""), version, one.get("protocol", "")]
        lines.append(f"| {' | '.join([*map(str, cells), *counts, str(one['date'])])} |")
    told = HEAD + "\n".join(lines) + "\n"
    missing = [one for one in ordered if "absent" in one]
    if missing:
        told += ABSENT + "".join(f"- `{one['runtime']}`: {one['absent']}\n" for one in missing)
    told += DETAIL
    for one in ran:
        told += f"### {one.get('title', one['runtime'])}\n\n"
        for what, ends in sorted(one["tests"].items()):
            told += f"- {what}: {', '.join(f'{count} {end}' for end, count in sorted(ends.items()))}\n"
        told += "\n"
    return told.rstrip() + "\n"


def _count(one: Mapping[str, Any], end: str) -> int:
    return sum(int(ends.get(end, 0)) for ends in one["tests"].values())


def read(folder: Path) -> list[dict[str, Any]]:
    """The results in a folder; raises `OSError` or `ValueError` when one can't be read."""
    return [json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]


def main(words: Sequence[str] | None = None) -> int:
    """Run; returns the exit status."""
    folder, target = (Path(word) for word in (sys.argv[1:] if words is None else words))
    results = read(folder)
    if not results:
        print(f"error: there are no results in `{folder}`\n\nhint: make test-runtimes", file=sys.stderr)
        return 2
    target.write_text(page(results), encoding="utf-8")
    failed = sum(_count(one, "failed") for one in results if one.get("tests"))
    print(f"{target}: {len(results)} runtimes, {failed} failed tests")
    return 0


if __name__ == "__main__":
    sys.exit(main())
