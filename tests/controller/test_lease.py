"""What is done about the Lease: one row for each case that a controller can find."""

from __future__ import annotations

from typing import Any

import pytest

from registry_mirror.controller import lease
from registry_mirror.controller.lease import ALL, Record, Term, decide, read, released, renewed, taken

ME, OTHER = "me", "other"
AT = "2026-01-02T03:04:05.000006Z"
LATER = "2026-01-02T03:04:15.000006Z"


def body(holder: str = OTHER, *, number: int = 3, seconds: Any = 15, writing: str = "", at: str = AT) -> dict[str, Any]:
    """A Lease as the API server gives it, with what others may have added to it."""
    annotations = {"team": "x", **({lease.WRITING: writing} if writing else {})}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": lease.NAME, "uid": "u", "resourceVersion": "7", "annotations": annotations},
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": seconds,
            "acquireTime": at,
            "renewTime": at,
            "leaseTransitions": number,
        },
    }


MINE = Term(ME, AT, 3)

DECISIONS = {
    "nobody ever led": (None, None, 0.0, "create"),
    "it was released": (body(""), None, 0.0, "acquire"),
    "we led before we were started anew": (body(ME), None, 0.0, "acquire"),
    "another has just renewed it": (body(), None, 0.0, "wait"),
    "another may still renew it": (body(), None, 14.9, "wait"),
    "another has not renewed it for its time": (body(), None, 15.0, "acquire"),
    "another took it for longer": (body(seconds=60), None, 59.0, "wait"),
    "a time of nothing is ours": (body(seconds=None), None, 14.9, "wait"),
    "a time of zero is ours": (body(seconds=0), None, 14.9, "wait"),
    "a time before time is ours": (body(seconds=-1), None, 14.9, "wait"),
    "a time that is no number is ours": (body(seconds="no"), None, 14.9, "wait"),
    "its times are long ago, by a clock that is wrong": (body(at="1999-01-01T00:00:00.000000Z"), None, 1.0, "wait"),
    "we lead": (body(ME), MINE, 0.0, "renew"),
    "we lead, and were late": (body(ME), MINE, 100.0, "renew"),
    "another took it from us": (body(number=4), MINE, 0.0, "lost"),
    "another took it from us, and released it": (body("", number=4), MINE, 0.0, "lost"),
    "one of our name took it from us": (body(ME, number=4, at=LATER), MINE, 0.0, "lost"),
    "one of our name made it anew": (body(ME, at=LATER), MINE, 0.0, "lost"),
    "somebody deleted it": (None, MINE, 0.0, "lost"),
}


@pytest.mark.parametrize("case", DECISIONS)
def test_what_is_done(case: str) -> None:
    found, mine, since, expected = DECISIONS[case]
    assert decide(read(found) if found is not None else None, ME, mine, 1000.0, 1000.0 + since) == expected


@pytest.mark.parametrize("broken", [{}, {"metadata": None, "spec": None}, {"spec": {"holderIdentity": None}}])
def test_a_lease_without_anything_in_it_is_free(broken: dict[str, Any]) -> None:
    assert decide(read(broken), ME, None, 0.0, 0.0) == "acquire"


def again(written: Any) -> Record:
    """What the next one reads."""
    return read(written)


def test_each_term_has_a_number_of_its_own() -> None:
    found = again(taken(read(body()), ME, LATER))
    assert found.term == Term(ME, LATER, 4)
    assert found.seconds == lease.LEASE_SECONDS
    assert again(taken(found, ME, LATER)).term.number == 5, "also one of the same name"
    assert again(released(found, LATER, ())).term.number == 4


def test_a_renewal_changes_nothing_but_its_time_and_what_is_written() -> None:
    before = read(body(ME, writing="a"))
    after = renewed(before, LATER, {"b"})
    assert again(after).term == before.term
    assert again(after).writing == {"b"}
    assert after["spec"]["renewTime"] == LATER
    assert after["metadata"] == {
        "name": lease.NAME,
        "uid": "u",
        "resourceVersion": "7",
        "annotations": {"team": "x", lease.WRITING: "b"},
    }
    assert lease.WRITING not in renewed(before, LATER, ())["metadata"]["annotations"]


def test_who_takes_over_keeps_what_the_one_before_was_writing() -> None:
    assert again(taken(read(body(writing="a b")), ME, LATER)).writing == {"a", "b"}
    assert again(taken(read(body("", writing="a")), ME, LATER)).writing == {"a"}, "from a release, too"


def test_without_a_lease_everything_may_be_being_written() -> None:
    new = taken(None, ME, LATER)
    assert new["apiVersion"] == "coordination.k8s.io/v1"
    assert again(new).term == Term(ME, LATER, 0)
    assert again(new).writing == {ALL}


def test_a_release_lets_anybody_lead_at_once() -> None:
    found = released(read(body(ME)), LATER, {"a"})
    assert found["spec"]["holderIdentity"] == ""
    assert found["spec"]["leaseDurationSeconds"] == 1, "the API server takes no 0"
    assert again(found).writing == {"a"}
    assert decide(again(found), OTHER, None, 0.0, 0.0) == "acquire"


def test_many_names_are_all_of_them() -> None:
    names = {f"node-{number}" for number in range(1000)}
    assert lease.named(names) == {ALL}
    assert lease.named({ALL, "a"}) == {ALL}
    assert lease.named({"a", "b"}) == {"a", "b"}
    assert again(renewed(read(body(ME)), LATER, names)).writing == {ALL}
