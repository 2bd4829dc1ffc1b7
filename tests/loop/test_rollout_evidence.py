"""From readings to evidence: scopes put behind each other, and rollouts of an older Mainspring."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

from mainspring.decide.arms import Arms, Counts, Slice, Sums, Units
from mainspring.decide.rollout import Bound
from mainspring.loop.draft import Draft
from mainspring.loop.memory import RolloutMemory, Scope, StagePinned
from mainspring.loop.readings import ArmsQuery, Unknown
from mainspring.loop.rollout_evidence import brought_along, joined, looked, terms_of
from mainspring.loop.window import slice_width
from mainspring.stack.rollout import Abort
from tests.loop.stacks import flights

QUERY = ArmsQuery("chat", "chat-4", ("chat-3",), "", 0.0, 95.0, 10.0, 0.0)
OLD = RolloutMemory(
    endpoint="delay", model="delay", candidate="2", control="1",
    stages=(StagePinned("mirror", 1.0, 60.0), StagePinned("canary", 0.1, 60.0), StagePinned("all", 1.0, 0.0)),
    abort_errors=0.05, abort_p95=None, margin=0.01, confidence=0.9, began=90.0, stage=1, stage_began=100.0, ready=True,
)  # fmt: skip


def arms(*at: int, errors: int = 0, tokens: int = 1) -> Arms:
    """Slices at these numbers, each with an error so many times."""
    slices = tuple(Slice(n, 0, Counts(10, errors), Counts(90, 0)) for n in at)
    return Arms(slices, Sums(tokens=((tokens, 1),)), routed=((0.1, 10 * len(at), 90 * len(at)),))


def test_scopes_are_put_behind_each_other() -> None:
    """Slices are numbered on by the length of what came before, sums are of the last scope, splits of all."""
    later = replace(QUERY, since=95.0, until=130.0)
    found = joined([(QUERY, arms(0, 8)), (later, arms(0, 2, tokens=7))])
    assert isinstance(found, Arms)
    assert [one.at for one in found.slices] == [0, 8, 10, 12]
    assert found.candidate.tokens == ((7, 1),)
    assert found.routed == ((0.1, 20, 180), (0.1, 20, 180))


def test_users_of_earlier_scopes_are_kept() -> None:
    """The last scope's are the present ones; those of scopes that are over stand beside, with their largest share."""
    users = {"candidate_units": Units(9, 5), "control_units": Units(80, 1)}
    later = replace(QUERY, since=95.0, until=130.0)
    found = joined([(QUERY, replace(arms(0, 8), **users)), (later, replace(arms(0), candidate_units=Units(2)))])
    assert isinstance(found, Arms)
    assert found.candidate_units == Units(2)
    assert found.earlier == ((Units(9, 5), Units(80, 1), 0.1),)


def test_scopes_that_did_not_change_are_not_joined_again() -> None:
    """The same answers give the same value, however much later; a new answer gives a new one."""
    first, second = arms(0, 8), arms(0, 2)
    looks = [joined([(QUERY, first), (replace(QUERY, since=95.0, until=at), second)]) for at in (130.0, 131.0)]
    assert looks[0] is looks[1]
    assert joined([(QUERY, first), (replace(QUERY, since=95.0, until=131.0), arms(0, 3))]) != looks[0]


def test_a_scope_without_requests_leaves_its_place_empty() -> None:
    """An earlier scope of which nothing is known adds nothing; when nothing is known of any, all is unknown."""
    later = replace(QUERY, since=95.0, until=130.0)
    found = joined([(QUERY, Unknown("no requests yet")), (later, arms(1))])
    assert isinstance(found, Arms)
    assert [one.at for one in found.slices] == [11]
    assert joined([(QUERY, Unknown("away")), (later, Unknown("away"))]) == Unknown("away")
    assert joined([(QUERY, arms(3))]) == arms(3)


def test_a_rollout_of_an_older_mainspring_goes_on_by_its_own_bounds() -> None:
    """Its bounds are its terms, nothing is promised, and a canary is taken as seen by users since its stage began."""
    found = brought_along(OLD)
    assert found.terms is not None
    assert found.terms.errors == (Bound(0.05),)
    assert found.terms.p95 == ()
    assert (found.terms.margin, found.terms.confidence, found.terms.promised_errors) == (0.01, 0.9, None)
    assert (found.live_since, found.scopes, found.shares) == (100.0, (Scope(100.0),), ((100.0, 0.1),))
    assert all(stage.otherwise == "proceed" for stage in found.stages)
    assert brought_along(found) is found


def test_slices_are_not_too_many() -> None:
    """A 720th of the first stage that users see, or of a sixth of all of them: ten minutes, then twelve hours."""
    stages = (StagePinned("mirror", 1.0, 9e9), StagePinned("canary", 0.1, 600.0), StagePinned("waves", 1.0, 43_200.0))
    assert slice_width(stages[:2]) == 1.0
    assert slice_width(stages) == 43_800 / 6 / 720
    assert slice_width((StagePinned("canary", 0.1, 7_200.0), StagePinned("all", 1.0, 3_600.0))) == 10.0


def seen(rollout: RolloutMemory, arms: Arms, now: float = 300.0) -> tuple[int | None, float | None]:
    """The stage's own requests, and seconds that are covered."""
    memory = SimpleNamespace(rollouts={"delay": rollout})
    draft = SimpleNamespace(s=SimpleNamespace(memory=memory), now=SimpleNamespace(wall=now, watched=now))
    how = looked(cast("Draft", draft), rollout, arms, 0.1)
    return how.requests, how.covered


def test_a_stage_is_told_its_own_requests_and_how_far_it_is_known() -> None:
    """Slices that began in it; a slice more than is whole; nothing of the latter where the source does not tell."""
    stages = (StagePinned("canary", 0.1, 7_200.0), StagePinned("canary", 0.2, 100.0))
    rollout = replace(brought_along(OLD), stages=stages, live_since=100.0, scopes=(Scope(100.0),), stage_began=205.0)
    slices = tuple(Slice(n, 0, Counts(10), Counts(90)) for n in (0, 10, 11, 19))  # 10: from 200 to 210
    assert seen(rollout, Arms(slices)) == (20, None)
    assert seen(rollout, Arms(slices[:2], whole=110.0)) == (0, 15.0)
    mirror = replace(rollout, stages=(stages[0], StagePinned("mirror", 1.0, 7_200.0)), mirror_since=150.0)
    copies = tuple(Slice(n, 0, Counts(5), Counts(5), 0.5) for n in (0, 6, 7))
    assert seen(mirror, Arms(slices, mirrored=Counts(15), mirrored_slices=copies, mirrored_whole=80.0)) == (10, 35.0)


def test_an_older_mirror_is_seen_by_nobody() -> None:
    """In its mirror stage, or before its replicas answer, no user has seen the candidate."""
    for old in (replace(OLD, stage=0), replace(OLD, ready=False)):
        assert brought_along(old).live_since is None


def test_terms_are_what_the_stack_file_says() -> None:
    """Bounds as numbers or beside the control, what is promised, and the margin of the gates."""
    stack = flights()
    endpoint = stack.serving["delay"]
    abort = Abort.model_validate({"errors": ["1%", "50% over control"], "p95": "100ms", "score": "5%"})
    objective = endpoint.objective.model_copy(update={"availability": 0.999, "p95": 0.05})
    terms = terms_of(stack, endpoint.model_copy(update={"abort": abort, "objective": objective}))
    assert terms.errors == (Bound(0.01), Bound(0.5, over=True))
    assert terms.p95 == (Bound(0.1),)
    assert (terms.score, terms.margin, terms.promised_p95) == (0.05, 0.005, 0.05)
    assert terms.promised_errors is not None
    assert abs(terms.promised_errors - 0.001) < 1e-12
    alone = terms_of(stack, endpoint.model_copy(update={"truth": None}))
    assert alone.margin is None
