"""Parsing is the only check of the offline paths: whatever a file holds, it is either a model or an InvalidError that
names the field, the value and what to write instead; never a traceback.
"""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from registry_mirror.api import parse
from registry_mirror.api.errors import InvalidError
from registry_mirror.api.grammar import DURATION_FORM, REGISTRY_FORM, URL_FORM
from tests.pure.builders import document, errors, parsed

URL = "https://harbor.example.com"


def test_a_document_becomes_a_model_with_its_defaults() -> None:
    spec = parsed("docker.io", endpoints=[{"url": URL}]).spec

    assert spec.registry == "docker.io"
    assert spec.endpoints[0].capabilities == ("Pull", "Resolve")
    assert spec.upstream.fallback == "Allow"
    assert spec.priority == 0


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"registry": "a/b"}, f"spec.registry: found 'a/b'; {REGISTRY_FORM}"),
        ({"registry": 5}, "spec.registry: found 5; write text (in quotes)"),
        ({"registry": None}, f"spec.registry: it is missing; {REGISTRY_FORM}"),
        ({}, f"spec.registry: it is missing; {REGISTRY_FORM}"),
        ({"registry": "a" * 256}, f"spec.registry: found '{'a' * 78}…; write at most 255 characters"),
        ({"registry": "a.b", "endpoints": [{}]}, f"spec.endpoints[0].url: it is missing; {URL_FORM}"),
        ({"registry": "a.b", "endpoints": URL}, f"spec.endpoints: found '{URL}'; write a list"),
        ({"registry": "a.b", "endpoints": [URL]}, f"spec.endpoints[0]: found '{URL}'; write an object"),
        (
            {"registry": "a.b", "endpoints": [{"url": URL}] * 17},
            "spec.endpoints: found a list of 17; write at most 16 entries",
        ),
        (
            {"registry": "a.b", "endpoints": [{"url": URL, "capabilities": ["pull"]}]},
            "spec.endpoints[0].capabilities[0]: found 'pull'; write one of Pull, Resolve",
        ),
        (
            {"registry": "a.b", "upstream": {"fallback": "deny"}},
            "spec.upstream.fallback: found 'deny'; write one of Allow, Deny",
        ),
        (
            {"registry": "a.b", "upstream": {"tls": {"caRef": {"name": "ca", "kind": "Pod"}}}},
            "spec.upstream.tls.caRef.kind: found 'Pod'; write one of ConfigMap, Secret",
        ),
        ({"registry": "a.b", "priority": "1"}, "spec.priority: found '1'; write a whole number"),
        ({"registry": "a.b", "priority": 1000001}, "spec.priority: found 1000001; write at most 1000000"),
        (
            {"registry": "a.b", "upstream": {"tls": {"insecureSkipVerify": "yes"}}},
            "spec.upstream.tls.insecureSkipVerify: found 'yes'; write true or false",
        ),
        ({"registry": "a.b", "endpoint": []}, "spec.endpoint: found an unknown field; did you mean endpoints?"),
        (
            {"registry": "a.b", "endpoints": [{"url": URL, "capabilites": []}]},
            "spec.endpoints[0].capabilites: found an unknown field; did you mean capabilities?",
        ),
        ({"registry": "a.b", 5: 1}, "spec: found a key that is not text; write keys as text (in quotes)"),
        (
            {"registry": "a.b", "quux": 1},
            "spec.quux: found an unknown field; remove it: there is no such field",
        ),
        (
            {"registry": "a.b", "nodeSelector": {"matchLabels": {"ok": "1", "example.com/a.b": 5}}},
            "spec.nodeSelector.matchLabels[example.com/a.b]: found 5; write text (in quotes)",
        ),
    ],
)
def test_a_wrong_shape_is_said_with_field_value_and_remedy(spec: dict[Any, Any], expected: str) -> None:
    assert errors({"metadata": {"name": "test"}, "spec": spec}) == [expected]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            {"endpoints": [{"url": URL}, {"url": f"{URL}/v2"}]},
            f"spec.endpoints[1].url: found '{URL}/v2'; remove it: spec.endpoints[0] is the same endpoint ({URL}/v2)",
        ),
        (
            {"endpoints": [{"url": "http://h.example", "tls": {"insecureSkipVerify": True}}]},
            "spec.endpoints[0].tls: found TLS settings for an http:// endpoint; remove tls, or write https://",
        ),
        (
            {"endpoints": [{"url": URL, "dialTimeout": "5"}]},
            f"spec.endpoints[0].dialTimeout: found '5'; {DURATION_FORM}",
        ),
        (
            {"endpoints": [{"url": URL, "capabilities": ["Pull", "Pull"]}]},
            "spec.endpoints[0].capabilities: found a repeated value; write each capability once",
        ),
        (
            {"endpoints": [{"url": URL, "capabilities": ["Resolve"]}]},
            "spec.endpoints[0].capabilities: found [Resolve]; add Pull: an endpoint without it serves no image",
        ),
        (
            {"rewrites": [{"pattern": "a", "replacement": "b"}, {"pattern": "a", "replacement": "c"}]},
            "spec.rewrites[1].pattern: found 'a'; remove it: an earlier rewrite has the same pattern",
        ),
        (
            {"registry": "*", "upstream": {"credentialsRef": {"name": "x"}}},
            'spec.upstream: found credentialsRef; remove it: "*" stands for many registries, which share no password',
        ),
        (
            {"nodeSelector": {"matchExpressions": [{"key": "zone", "operator": "NotIn"}]}},
            "spec.nodeSelector.matchExpressions[0].values: found no value; write at least one: NotIn compares with "
            "them",
        ),
        (
            {
                "endpoints": [
                    {
                        "url": URL,
                        "nodeSelector": {"matchExpressions": [{"key": "zone", "operator": "Exists", "values": ["a"]}]},
                    }
                ]
            },
            "spec.endpoints[0].nodeSelector.matchExpressions[0].values: found values; remove them: Exists compares "
            "with none",
        ),
    ],
)
def test_what_the_shape_allows_and_the_grammar_does_not_is_refused(spec: dict[str, Any], expected: str) -> None:
    assert errors(document(**spec)) == [expected]


def test_http_with_default_tls_settings_is_accepted() -> None:
    assert errors(document(endpoints=[{"url": "http://h.example", "tls": {}}])) == []


def test_everything_that_is_wrong_with_the_grammar_is_said_at_once() -> None:
    found = errors(
        document(
            "a/b",
            endpoints=[{"url": "ftp://x"}, {"url": URL, "dialTimeout": "soon"}],
            rewrites=[{"pattern": "(", "replacement": ""}, {"pattern": "a", "replacement": "$1"}],
        )
    )

    assert [item.partition(":")[0] for item in found] == [
        "spec.registry",
        "spec.endpoints[0].url",
        "spec.endpoints[1].dialTimeout",
        "spec.rewrites[0].pattern",
        "spec.rewrites[1].replacement",
    ]


ODD: list[Any] = [
    None,
    [],
    "text",
    5,
    {},
    {"metadata": None},
    {"metadata": []},
    {"metadata": ["name"]},
    {"metadata": "name"},
    {"metadata": {"name": 5}, "spec": {"registry": "a.b"}},
    {"metadata": {"name": ["x"]}, "spec": {"registry": "a.b"}},
    {"metadata": {"name": {"x": "y"}}, "spec": {"registry": "a.b"}},
    {"metadata": {"name": "\ud800"}, "spec": {"registry": "a.b"}},
    {"metadata": {"name": "x", "labels": {"a": 1}}, "spec": {"registry": "a.b"}},
    {"metadata": {"name": "x", "labels": "a"}, "spec": {"registry": "a.b"}},
    {"metadata": {"name": "x"}},
    {"metadata": {"name": "x"}, "spec": None},
    {"metadata": {"name": "x"}, "spec": []},
    {"metadata": {"name": "x"}, "spec": {"registry": "a.b", 5: "x"}},
    {"metadata": {"name": "x"}, "spec": {"registry": "a.b", None: "x"}},
    {"metadata": {"name": "x"}, "spec": {"registry": "a.b", (1, 2): "x"}},
    {"metadata": {"name": "x"}, 5: {}, "spec": {"registry": "a.b"}},
    {"metadata": {"name": "x"}, "spec": {"registry": datetime.date(2026, 1, 1)}},
    {"metadata": {"name": "x"}, "spec": {"registry": {1, 2}}},
    {"metadata": {"name": "x"}, "spec": {"registry": b"a.b"}},
    {"metadata": {"name": "x"}, "spec": {"registry": object()}},
    {"metadata": {"name": "x"}, "spec": {"registry": "a.b", "priority": 2**70}},
    {"metadata": {"name": "x"}, "spec": {"registry": "a.b", "priority": float("nan")}},
    {"metadata": {"name": "x"}, "spec": {"registry": "a.b", "bad\n\x1b[31m": 1}},
    {"metadata": {"name": "x"}, "spec": {"registry": "a.b", "rewrites": [{"pattern": "\ud800", "replacement": ""}]}},
    {"metadata": {"name": "x"}, "apiVersion": ["v1"], "spec": {"registry": "a.b"}},
    {"metadata": {"name": "x"}, "apiVersion": "registrymirror.io/v2", "spec": {"registry": "a.b"}},
]


@pytest.mark.parametrize("body", ODD, ids=lambda body: ascii(body)[:60])
def test_an_odd_document_is_an_error_that_can_be_printed(body: Any) -> None:
    with pytest.raises(InvalidError) as caught:
        parse.registry_mirror(body)

    text = str(caught.value)
    assert text.encode().isascii()
    assert text.isprintable()
    assert text.startswith("RegistryMirror ")


@pytest.mark.parametrize("body", [None, [], {"metadata": {"name": "x"}, "spec": 5}, {"metadata": {"name": "x"}, 1: 2}])
def test_odd_documents_of_the_other_kinds_are_errors_too(body: Any) -> None:
    with pytest.raises(InvalidError):
        parse.policy(body)
    with pytest.raises(InvalidError):
        parse.node_registry_config(body)


def test_a_document_is_named_for_a_person() -> None:
    assert parse.subject_of({"kind": "Secret", "metadata": {"name": "a", "namespace": "b"}}) == "Secret b/a"
    assert parse.subject_of({"kind": "Secret"}) == "Secret (without a name)"
    assert parse.subject_of({}) == "document (without a name)"
    assert parse.subject_of({"metadata": {"name": "a\nb"}}, "Secret") == "Secret 'a\\nb'"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"rollout": {"deadline": "soon"}}, f"spec.rollout.deadline: found 'soon'; {DURATION_FORM}"),
        ({"rollout": {"canary": {"soak": "1"}}}, f"spec.rollout.canary.soak: found '1'; {DURATION_FORM}"),
        ({"probe": {"interval": "1x"}}, f"spec.probe.interval: found '1x'; {DURATION_FORM}"),
        (
            {"rollout": {"windows": [{"schedule": "0 0 * * *", "duration": "1 h"}]}},
            f"spec.rollout.windows[0].duration: found '1 h'; {DURATION_FORM}",
        ),
        *(
            (
                {"rollout": {"maxUnavailable": value}},
                f'spec.rollout.maxUnavailable: found {shown}; write a number from 1, or a share from "1%" to "100%"',
            )
            for value, shown in [(0, "0"), (-1, "-1"), ("0%", "'0%'"), ("101%", "'101%'"), ("5", "'5'")]
        ),
        (
            {"rollout": {"maxUnavailable": []}},
            "spec.rollout.maxUnavailable: found a list of 0; write a whole number or",
        ),
        ({"drift": "repair"}, "spec.drift: found 'repair'; write one of Repair, Report"),
    ],
)
def test_a_wrong_policy_is_refused(spec: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse.policy({"metadata": {"name": "default"}, "spec": spec})

    assert caught.value.detail.startswith(expected)


@pytest.mark.parametrize("share", [1, 50, "1%", "99%", "100%"])
def test_a_policy_takes_numbers_and_shares(share: int | str) -> None:
    body = {"metadata": {"name": "default"}, "spec": {"rollout": {"maxUnavailable": share}}}

    assert parse.policy(body).spec.rollout.max_unavailable == share
