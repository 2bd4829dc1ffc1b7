"""What is wrong with stages and bounds of a rollout is said where it is written."""

from __future__ import annotations

from typing import Any

import pytest

from mainspring.stack.model import Stack
from mainspring.stack.notes import notes
from mainspring.stack.problems import Places
from mainspring.stack.resolve import Parts, cross_checks

CANARY = {"canary": "5%", "for": "2h"}
ALL = {"all": "100%"}


def stack(*stages: dict[str, Any], regions: tuple[str, ...] = (), **endpoint: Any) -> Stack:
    """A stack of one endpoint with these stages."""
    compute: dict[str, Any] = {"here": {"machine": "this"}}
    if regions:
        compute["regions"] = list(regions)
    serving = {"model": "scorer@champion", "rollout": list(stages), **endpoint}
    return Stack.model_validate(
        {
            "mainspring": 1,
            "stack": "s",
            "compute": compute,
            "orchestration": {"where": "here"},
            "serving": {"api": serving},
        }
    )


def wrong(*stages: dict[str, Any], **parts: Any) -> list[tuple[str, str]]:
    """Code and path of each problem."""
    found = cross_checks(Parts.of(stack(*stages, **parts)), Places("mainspring.yaml"))
    return [(problem.code, problem.path) for problem in found]


def test_the_case_study_s_stages_are_right() -> None:
    """A canary in one region, then waves of one replica in each."""
    waves = {"waves": "1 replica per region", "within": "6h"}
    assert wrong({**CANARY, "in": "us"}, waves, regions=("us", "eu")) == []
    assert wrong({"mirror": "100%", "for": "1h"}, {"ab": "50%", "for": "1d", "metric": "liked"}, ALL) == []


@pytest.mark.parametrize(
    ("stages", "code", "path"),
    [
        (({"canary": "0%", "for": "1h"}, ALL), "bad-stage", "rollout.0.canary"),
        (({"canary": "100%", "for": "1h"}, ALL), "bad-stage", "rollout.0.canary"),
        (({"ab": "100%", "for": "1h", "metric": "liked"}, ALL), "bad-stage", "rollout.0.ab"),
        (({"ab": "50%", "metric": "liked"}, ALL), "bad-stage", "rollout.0.ab"),
        (({"all": "50%"},), "bad-stage", "rollout.0.all"),
        (({"waves": "1 replica", "for": "1h", "within": "6h"},), "bad-stage", "rollout.0.for"),
        (({"waves": "1 replica per region", "within": "6h"},), "no-regions", "rollout.0.waves"),
    ],
)
def test_stages_that_cannot_be(stages: tuple[dict[str, Any], ...], code: str, path: str) -> None:
    """Each is pointed at by its place."""
    assert (code, f"serving.api.{path}") in wrong(*stages)


def test_the_last_stage_is_for_all_regions() -> None:
    """`in` is of stages that show something to a part."""
    for last in ({"waves": "1 replica", "within": "6h", "in": "us"}, {"all": "100%", "in": "us"}):
        assert ("bad-stage", "serving.api.rollout.0.in") in wrong(last, regions=("us", "eu"))


def test_bounds_on_tokens_are_of_language_models() -> None:
    """A model of rows has no tokens and no first one."""
    found = wrong(CANARY, ALL, abort={"ttft": "1s", "tokens": "20% over control"})
    assert {path for code, path in found if code == "not-of-this-runtime"} == {
        "serving.api.abort.ttft", "serving.api.abort.tokens",
    }  # fmt: skip


def test_notes_on_stages_that_show_less_than_one_may_think() -> None:
    """An A/B test by request, waves that nobody watches, and waves that go region by region."""
    ab = {"ab": "50%", "for": "1d", "metric": "liked"}
    assert any("in turn" in str(note) for note in notes(stack(ab, ALL)))
    assert not any("split: user" in str(note) for note in notes(stack(ab, ALL)))  # which is of language models
    assert not any("in turn" in str(note) for note in notes(stack(ab, ALL, route={"split": "x-user-id"})))
    assert any("no wave is watched" in str(note) for note in notes(stack({"waves": "25%"})))
    uneven = notes(stack({"waves": "1 replica", "within": "1h"}, regions=("us", "eu")))
    assert any("1 replica per region" in str(note) for note in uneven)


def test_what_was_written_and_what_there_is_are_in_the_message() -> None:
    """A share as it stands in the file; the regions that there are."""

    def said(*stages: dict[str, Any], **parts: Any) -> str:
        found = cross_checks(Parts.of(stack(*stages, **parts)), Places("mainspring.yaml"))
        return "; ".join(problem.message for problem in found)

    assert "not `50%`" in said({"all": "50%"})
    assert "such as `for: 14d`" in said({"ab": "50%", "metric": "liked"}, ALL)
    regions = ("us-east-1", "eu-west-1")
    assert "there is `eu-west-1`, `us-east-1`" in said({**CANARY, "in": "mars"}, ALL, regions=regions)
    many = tuple(f"region-{n}" for n in range(12))
    assert "has no `mars`; there is `region-0`" in said({**CANARY, "in": "mars"}, ALL, regions=many)
    assert "it is empty" in said({**CANARY, "in": "mars"}, ALL)
