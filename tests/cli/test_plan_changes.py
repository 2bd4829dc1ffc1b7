"""What `plan` and `up` say of a changed stack file: which changes are rolled out, and how."""

from __future__ import annotations

from mainspring.cli.plan import PlanRow, plan_rows
from mainspring.stack.load import parse
from mainspring.stack.model import Stack

STACK = """\
mainspring: 1
stack: shop
compute: {here: {machine: this}}
orchestration: {where: here}
serving:
  delay:
    model: delay@champion
    threads: 1
    batch: {size: 32}
    replicas: 1
    rollout: [{canary: 0.5%, for: 1h}, {waves: 1 replica, within: 6h}]
"""


def stack(*changed: tuple[str, str]) -> Stack:
    """The stack, with words of it replaced."""
    text = STACK
    for old, new in changed:
        text = text.replace(old, new)
    return parse(text.encode(), "mainspring.yaml")


def test_settings_of_replicas_are_rolled_out() -> None:
    """A change of what replicas are started with names the stages that it walks down."""
    rows = plan_rows(stack(("threads: 1", "threads: 2"), ("size: 32", "size: 64")), stack())
    assert rows[:2] == [
        PlanRow("~", "serving.delay.threads", "1 -> 2"),
        PlanRow("~", "serving.delay.batch.size", "32 -> 64"),
    ]
    walk = "canary 0.5% 1h -> waves of 1 replica within 6h"
    assert rows[2:] == [PlanRow("~", "rollout/delay", f"threads 1 -> 2, batch size 32 -> 64: rolled out by {walk}")]


def test_other_changes_are_not() -> None:
    """A number of replicas is changed in place; a new stack has its stages in a row of its own."""
    two = stack(("replicas: 1", "replicas: 2"))
    assert {row.what.rpartition(".")[0] for row in plan_rows(two, stack())} == {"serving.delay.replicas"}
    assert plan_rows(stack(), stack()) == []
    old, new = "canary 0.5% 1h, waves of 1 replica within 6h", "canary 2% 1h, waves of 1 replica within 6h"
    other = plan_rows(stack(("canary: 0.5%", "canary: 2%")), stack())
    assert other == [PlanRow("~", "serving.delay.rollout", f"{old} -> {new}")]
    walk = next(row.detail for row in plan_rows(stack()) if row.what == "rollout/delay")
    assert walk == "canary 0.5% 1h -> waves of 1 replica within 6h"
