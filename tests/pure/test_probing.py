"""What endpoints are asked, what answers and rounds come to, and the order that follows: nothing here may flap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from registry_mirror.api.images import Image, parse_image
from registry_mirror.api.models import EndpointResult
from registry_mirror.core.answers import Answer, Challenge, challenge, host_of, token, verdict
from registry_mirror.core.probing import (
    MAX_TARGETS,
    History,
    Result,
    Target,
    demoted,
    every,
    judge,
    moved,
    report,
    request,
    targets,
    unreachable,
)
from tests.pure.builders import TOKEN, USER, endpoint, mirror, tls

BUSYBOX = "docker.io/library/busybox:1.37"
IMAGE = Image(registry="docker.io", repository="library/busybox", reference="1.37")
DIGEST = "sha256:" + "0123456789abcdef" * 4
A, B, C = "https://a.example", "https://b.example", "https://c.example"


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BUSYBOX, IMAGE),
        ("quay.io/a", Image(registry="quay.io", repository="a", reference="latest")),
        ("[fd00::1]:5000/a-b/c__d.e:T_1", Image(registry="[fd00::1]:5000", repository="a-b/c__d.e", reference="T_1")),
        (f"localhost/a:1@{DIGEST}", Image(registry="localhost", repository="a", reference=DIGEST)),
        *(
            (text, None)
            for text in (
                *("", "busybox", "busybox:1", "library/busybox", "*/a", "quay.io/", "quay.io/A", "quay.io/a:"),
                *("quay.io/../a", "quay.io/a?x=y", "quay.io/a:b c", "quay.io//a", "quay.io/a@sha256:0", "a b/c"),
                "quay.io/" + "a" * 600,
            )
        ),
    ],
)
def test_names_of_images(text: str, expected: Image | None) -> None:
    assert parse_image(text) == expected


# ---- targets ---------------------------------------------------------------------------------------------------------


def test_each_endpoint_is_asked_once_for_the_same_settings() -> None:
    found = targets(
        [
            mirror("docker.io", A, endpoint(B, tls=tls(ca="x"))),
            mirror("quay.io", A, endpoint(B, credentials=USER, dial_timeout="1s")),
        ]
    )
    assert [(item.url, item.tls, item.credentials, item.dial_timeout) for item in found] == [
        (A, None, None, None),
        (B, tls(ca="x"), None, None),
        (B, None, USER, "1s"),
    ]


def test_no_more_urls_are_asked_than_can_be_reported() -> None:
    many = [mirror(f"r{index}.example", f"https://m{index}.example", A) for index in range(300)]
    found = targets(many)
    assert len({item.url for item in found}) == MAX_TARGETS
    assert found[1].url == A


@pytest.mark.parametrize(
    ("mirrors", "asked"),
    [
        ([mirror("docker.io", A), mirror("quay.io", B), mirror("*", C)], [A]),
        ([mirror("quay.io", B), mirror("*", C)], [C]),
        ([mirror("quay.io", B)], []),
        ([mirror("docker.io", A, rewrites={"^": "x/"})], []),
    ],
)
def test_the_image_is_asked_for_where_a_pull_would_ask(mirrors: list[Any], asked: list[str]) -> None:
    found = targets(mirrors, BUSYBOX)
    assert [item.url for item in found if item.image == IMAGE] == asked
    assert [item.url for item in targets(mirrors) if item.image] == []
    assert [item.url for item in targets(mirrors, "no image") if item.image] == []


def test_a_target_shows_no_secret() -> None:
    text = repr(Target(url=A, tls=tls(key="swordfish"), credentials=USER))
    assert "swordfish" not in text


@pytest.mark.parametrize(
    ("url", "image", "expected"),
    [
        (A, None, ("GET", f"{A}/v2/", True)),
        (f"{A}/", None, ("GET", f"{A}/v2/", True)),
        (f"{A}/v2", None, ("GET", f"{A}/v2/", True)),
        (f"{A}/v2/hub", None, ("GET", f"{A}/v2/", True)),
        (f"{A}/artifactory/api/docker/hub/v2", None, ("GET", f"{A}/artifactory/api/docker/hub/v2/", True)),
        (f"{A}/mirror", None, ("GET", f"{A}/v2/", False)),
        ("http://[fd00::1]:5000", None, ("GET", "http://[fd00::1]:5000/v2/", True)),
        (A, IMAGE, ("HEAD", f"{A}/v2/library/busybox/manifests/1.37?ns=docker.io", True)),
        (f"{A}/mirror", IMAGE, ("HEAD", f"{A}/mirror/library/busybox/manifests/1.37?ns=docker.io", True)),
        (
            "https://registry-1.docker.io",
            IMAGE,
            ("HEAD", "https://registry-1.docker.io/v2/library/busybox/manifests/1.37", True),
        ),
    ],
)
def test_the_request(url: str, image: Image | None, expected: tuple[str, str, bool]) -> None:
    found = request(Target(url=url, image=image))
    assert (found.method, found.url, found.certain) == expected
    assert found.scope == ("repository:library/busybox:pull" if image else "")


# ---- answers ---------------------------------------------------------------------------------------------------------

JSON = {"content-type": "application/json"}
ERRORS = b'{"errors": [{"code": "UNSUPPORTED"}]}'


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(200, JSON, b"{}"), "Reachable"),
        (Answer(204, {}), "Reachable"),
        (Answer(200, {"content-type": "text/html; charset=utf-8"}, b"<html>"), "not NotARegistry"),
        (Answer(307, {"location": "https://me:secret@other.example/x"}), "Reachable: other.example"),
        (Answer(302, {"location": "/login"}), "Reachable: redirects"),
        (Answer(401, {}), "Reachable: credentialsRef"),
        (Answer(403, {}), "Reachable: credentialsRef"),
        (Answer(429, {}), "Reachable: 429"),
        (Answer(404, JSON, ERRORS), "Reachable"),
        (Answer(404, {"docker-distribution-api-version": "registry/2.0"}), "Reachable"),
        (Answer(404, {}, b"404 page not found"), "not NotARegistry: /v2/"),
        (Answer(405, {}, b"[]"), "not NotARegistry"),
        (Answer(400, {}, b"Client sent an HTTP request to an HTTPS server.\n"), "not NotARegistry: https://"),
        (Answer(400, {}, b"No required SSL certificate was sent"), "not ClientCertificateRefused"),
        (Answer(500, JSON, ERRORS), "not ServerError: 500"),
        (Answer(503, {}), "not ServerError"),
    ],
)
def test_what_an_answer_says(answer: Answer, expected: str) -> None:
    target = Target(url=A)
    found = verdict(target, request(target), answer)
    reason, _, words = expected.removeprefix("not ").partition(": ")
    assert (found.reachable, found.reason) == (not expected.startswith("not "), reason)
    assert words in found.message
    assert "secret" not in found.message
    assert len(found.message) <= 256


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("credentials", [USER, TOKEN])
def test_credentials_that_are_refused_are_wrong(status: int, credentials: Any) -> None:
    target = Target(url=A, credentials=credentials)
    found = verdict(target, request(target), Answer(status, {}))
    assert (found.reachable, found.reason) == (False, "Unauthorized")


def test_without_an_image_a_path_cannot_be_told_to_be_wrong() -> None:
    target = Target(url=f"{A}/mirror")
    found = verdict(target, request(target), Answer(404, {}))
    assert found.reachable
    assert "spec.probe.image" in found.message


def test_with_an_image_404_is_about_the_image() -> None:
    target = Target(url=A, image=IMAGE)
    assert "library/busybox:1.37" in verdict(target, request(target), Answer(404, {})).message
    assert verdict(target, request(target), Answer(404, {})).reachable
    assert not verdict(target, request(target), Answer(405, {})).reachable


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            'Bearer realm="https://a/t",service="s",scope="x:y:pull,push"',
            Challenge("https://a/t", "s", "x:y:pull,push"),
        ),
        ('bearer realm="http://a:1/t?b=c"', Challenge("http://a:1/t?b=c")),
        ('Basic realm="x", Bearer realm="https://a/t"', Challenge("https://a/t")),
        ("Bearer realm=https://a/t,service=s", Challenge("https://a/t", "s")),
        ('Basic realm="Bearer"', None),
        ('Bearer service="s"', None),
        ('Bearer realm="/token"', None),
        ('Bearer realm="https://u@"', None),
        ("", None),
    ],
)
def test_challenges(header: str, expected: Challenge | None) -> None:
    assert challenge(Answer(401, {"www-authenticate": header})) == expected
    assert challenge(Answer(403, {"www-authenticate": header})) is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"token": "t"}', "t"),
        (b'{"token": "t", "access_token": "a"}', "a"),
        *((body, None) for body in (b"", b"[]", b"{}", b'{"token": 1}', b'{"token": "a b"}', b"[" * 100_000)),
    ],
)
def test_tokens(body: bytes, expected: str | None) -> None:
    assert token(Answer(200, {}, body)) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [("https://u:p@h:1/x", "h:1"), ("https://[fd00::1]:1", "[fd00::1]:1"), ("/x", ""), ("https://a\u001bb", "")],
)
def test_hosts_for_messages(url: str, expected: str) -> None:
    assert host_of(url) == expected


# ---- rounds ----------------------------------------------------------------------------------------------------------

GOOD, SLOW = Result(True, "Reachable", "", 0.04), Result(True, "Reachable", "", 0.2)
LONG = Result(True, "Reachable", "", 1.0)
OTHER = Result(True, "Reachable", "it answers 429", 0.04)
HANGS, REFUSES = Result(False, "TimedOut", "x"), Result(False, "ConnectionRefused", "y")


def reported(results: Sequence[Result]) -> list[Result]:
    """What is reported after each round."""
    history: History | None = None
    found = []
    for result in results:
        history = judge(history, result)
        found.append(history.reported)
    return found


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([GOOD, HANGS], [GOOD, HANGS]),
        ([HANGS, GOOD, GOOD], [HANGS, HANGS, GOOD]),
        ([HANGS, GOOD, HANGS, GOOD, HANGS, GOOD, GOOD], [*[HANGS] * 6, GOOD]),
        ([HANGS, OTHER, GOOD], [HANGS, HANGS, GOOD]),
        ([HANGS, REFUSES, HANGS, REFUSES], [HANGS] * 4),
        ([HANGS, REFUSES, REFUSES, HANGS], [HANGS, HANGS, REFUSES, REFUSES]),
        ([HANGS, REFUSES, GOOD, GOOD], [HANGS, HANGS, HANGS, GOOD]),
        ([GOOD, OTHER, GOOD, OTHER], [GOOD] * 4),
        ([GOOD, OTHER, OTHER], [GOOD, GOOD, OTHER]),
        ([GOOD, SLOW, GOOD, SLOW, GOOD], [GOOD] * 5),
        ([GOOD, SLOW, SLOW, GOOD], [GOOD, GOOD, SLOW, SLOW]),
        ([GOOD, *[Result(True, "Reachable", "", 0.085)] * 2], [GOOD] * 3),
        ([LONG, *[Result(True, "Reachable", "", 0.51)] * 2], [LONG] * 3),
        ([LONG, *[Result(True, "Reachable", "", 0.49)] * 2], [LONG, LONG, Result(True, "Reachable", "", 0.49)]),
        ([HANGS, Result(False, "TimedOut", "x", 9.0), Result(False, "TimedOut", "x", 9.0)], [HANGS] * 3),
    ],
)
def test_failures_count_at_once_and_anything_else_when_seen_twice(
    results: list[Result], expected: list[Result]
) -> None:
    assert reported(results) == expected


def test_reports_have_one_entry_a_url_and_a_failure_counts() -> None:
    one, two, three = Target(url=A), Target(url=A, credentials=USER), Target(url=B)
    histories = {one: History(GOOD), two: History(Result(False, "Unauthorized", "m" * 300)), three: History(SLOW)}
    found = report(histories, [three, one, two, Target(url=C)])
    assert [(item.url, item.reachable, item.reason, item.latency) for item in found] == [
        (B, True, "Reachable", "200ms"),
        (A, False, "Unauthorized", ""),
    ]
    assert len(found[1].message) == 256
    assert unreachable(found) == {A}
    assert report({one: History(Result(True, "Reachable", "", 0.0001))}, [one])[0].latency == "1ms"


# ---- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("down", "expected"),
    [
        (set(), [A, B, C]),
        ({A}, [B, C, A]),
        ({A, B}, [C, A, B]),
        ({B}, [A, C, B]),
        ({C}, [A, B, C]),
        ({A, B, C}, [A, B, C]),
        ({"https://elsewhere.example"}, [A, B, C]),
    ],
)
def test_what_does_not_answer_goes_behind_what_does(down: set[str], expected: list[str]) -> None:
    one = mirror("docker.io", A, B, C)
    found = demoted(one, down)
    assert [item.url for item in found.endpoints] == expected
    same = expected == [A, B, C]
    assert (found is one) == same
    assert dict(moved([one], down)) == ({} if same else {"docker.io": frozenset(down)})


def test_reports_of_the_api_are_read() -> None:
    good = EndpointResult(url=A, reachable=True, reason="Reachable")
    assert unreachable([good, EndpointResult(url=B, reachable=False, reason="TimedOut")]) == {B}


@pytest.mark.parametrize(("count", "seconds"), [(0, 60.0), (1, 60.0), (100, 60.0), (150, 90.0), (256, 153.6)])
def test_many_endpoints_are_tested_less_often(count: int, seconds: float) -> None:
    assert every(60.0, count) == pytest.approx(seconds)
