"""References filled in: all that can be wrong with a Secret or ConfigMap must be found here, before a file names it,
because containerd fails the whole pull, fallback included, on a CA or client file that it cannot parse.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest

from registry_mirror.api.errors import InvalidError
from registry_mirror.api.models import RegistryMirror
from registry_mirror.core.resolve import ResolvedMirror, Source, SourceKind, Sources, references, resolve, source
from tests.pure.builders import parsed, pem

URL = "https://mirror.example.com:5000"
CA = pem("ca-one.crt")
ALL_REFERENCES: dict[str, Any] = {
    "endpoints": [
        {
            "url": URL,
            "credentialsRef": {"name": "login"},
            "tls": {
                "caRef": {"kind": "ConfigMap", "name": "ca", "key": "ca.pem"},
                "clientCertificateRef": {"name": "client"},
            },
        }
    ],
    "upstream": {"credentialsRef": {"name": "upstream-login"}, "tls": {"caRef": {"name": "upstream-ca"}}},
}


def sources(*items: tuple[SourceKind, str, dict[str, str | bytes]]) -> Sources:
    return {
        (kind, name): Source(
            kind=kind,
            name=name,
            data={key: value.encode() if isinstance(value, str) else value for key, value in data.items()},
        )
        for kind, name, data in items
    }


def with_ca(**tls: Any) -> RegistryMirror:
    return parsed(endpoints=[{"url": URL, "tls": tls or {"caRef": {"name": "ca"}}}])


def resolved_ca(text: str | bytes) -> str:
    mirror = resolve(with_ca(), sources(("Secret", "ca", {"ca.crt": text})))
    tls = mirror.endpoints[0].tls
    assert tls is not None
    return tls.ca


def failure(mirror: RegistryMirror, found: Sources) -> InvalidError:
    with pytest.raises(InvalidError) as caught:
        resolve(mirror, found)
    return caught.value


COMPLETE = sources(
    ("Secret", "login", {"username": "robot", "password": "swordfish"}),
    ("ConfigMap", "ca", {"ca.pem": CA}),
    ("Secret", "client", {"tls.crt": pem("client.crt"), "tls.key": pem("client.key")}),
    ("Secret", "upstream-login", {"token": "identity"}),
    ("Secret", "upstream-ca", {"ca.crt": pem("ca-two.crt")}),
)


def complete() -> ResolvedMirror:
    return resolve(parsed(**ALL_REFERENCES), COMPLETE)


def test_every_reference_is_filled_in() -> None:
    mirror = complete()
    endpoint = mirror.endpoints[0]

    assert endpoint.credentials is not None
    assert (endpoint.credentials.username, endpoint.credentials.password) == ("robot", "swordfish")
    assert endpoint.tls is not None
    assert (endpoint.tls.ca, endpoint.tls.certificate, endpoint.tls.key) == (CA, pem("client.crt"), pem("client.key"))
    assert mirror.upstream_credentials is not None
    assert mirror.upstream_credentials.identity_token == "identity"
    assert mirror.upstream_tls is not None
    assert mirror.upstream_tls.ca == pem("ca-two.crt")


def test_every_reference_is_named() -> None:
    assert set(references(parsed(**ALL_REFERENCES))) == set(COMPLETE)


def test_default_tls_settings_are_none() -> None:
    mirror = resolve(parsed(endpoints=[{"url": URL, "tls": {}}]), {})

    assert mirror.endpoints[0].tls is None


def test_everything_that_is_missing_is_named_at_once() -> None:
    error = failure(parsed(**ALL_REFERENCES), {})

    assert error.reason == "ReferenceNotFound"
    assert [item.field for item in error.errors] == [
        "spec.endpoints[0].tls.clientCertificateRef.name",
        "spec.endpoints[0].tls.caRef.name",
        "spec.endpoints[0].credentialsRef.name",
        "spec.upstream.tls.caRef.name",
        "spec.upstream.credentialsRef.name",
    ]
    assert "found no ConfigMap ca; create it in the namespace of the operator" in str(error)


def test_a_secret_is_not_taken_for_a_config_map_of_that_name() -> None:
    error = failure(with_ca(caRef={"kind": "ConfigMap", "name": "ca"}), sources(("Secret", "ca", {"ca.crt": CA})))

    assert error.reason == "ReferenceNotFound"


def test_malformed_wins_over_missing() -> None:
    found = {key: value for key, value in COMPLETE.items() if key[1] != "login"}
    error = failure(parsed(**ALL_REFERENCES), {**found, **sources(("ConfigMap", "ca", {"ca.pem": "x"}))})

    assert error.reason == "ReferenceInvalid"
    assert len(error.errors) == 2


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        ({"other": CA}, "found Secret ca; it has no key ca.crt: it has other"),
        ({}, "it has no key ca.crt: it has none"),
        ({"ca.crt": ""}, "it has no block BEGIN CERTIFICATE"),
        ({"ca.crt": b"\x30\x82\xff"}, "it has no block BEGIN CERTIFICATE"),
        ({"ca.crt": pem("client.key")}, "it has no block BEGIN CERTIFICATE"),
        # OpenSSL's own form, which Go skips.
        ({"ca.crt": CA.replace("CERTIFICATE", "TRUSTED CERTIFICATE")}, "it has no block BEGIN CERTIFICATE"),
        ({"ca.crt": CA[:-30]}, "a block in it is cut off, damaged or encrypted"),
        ({"ca.crt": CA + CA.replace("M", "!", 1)}, "a block in it is cut off, damaged or encrypted"),
        ({"ca.crt": CA.replace("MII", "MIX")}, "a certificate in it cannot be parsed"),
        ({"ca.crt": CA + CA.replace("MII", "MIX")}, "a certificate in it cannot be parsed"),
        ({"ca.crt": "x" * (256 * 1024 + 1)}, "it is larger than 256 KiB"),
    ],
)
def test_a_ca_that_a_runtime_could_not_read_is_refused(data: dict[str, str | bytes], remedy: str) -> None:
    error = failure(with_ca(), sources(("Secret", "ca", data)))

    assert error.reason == "ReferenceInvalid"
    assert error.errors[0].field == "spec.endpoints[0].tls.caRef"
    assert remedy in str(error)


@pytest.mark.parametrize(
    "text",
    [
        CA.replace("\n", "\r\n"),
        CA.replace("\n", "\n  "),  # indented by hand in YAML; Go wants END at the start of a line
        f"# Főtanúsítvány\n{CA}\n# end",
        CA.strip(),
    ],
)
def test_a_ca_comes_out_in_the_one_form_that_go_reads(text: str) -> None:
    assert resolved_ca(text) == CA


def test_a_bundle_keeps_all_its_certificates() -> None:
    assert resolved_ca(f"one\n{CA}\n\ntwo\n{pem('ca-two.crt')}") == CA + pem("ca-two.crt")


def test_a_key_beside_a_certificate_does_not_get_into_the_ca() -> None:
    assert resolved_ca(CA + pem("client.key")) == CA


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        ({"tls.crt": pem("client.crt")}, "it has no key tls.key"),
        ({"tls.key": pem("client.key")}, "it has no key tls.crt"),
        ({"tls.crt": pem("client.crt"), "tls.key": CA}, "it has no block BEGIN PRIVATE KEY"),
        (
            {"tls.crt": pem("client.crt"), "tls.key": pem("client-encrypted.key")},
            "it has no block BEGIN PRIVATE KEY",
        ),
        (
            {
                "tls.crt": pem("client.crt"),
                "tls.key": pem("client.key").replace("KEY-----\n", "KEY-----\nDEK-Info: x\n\n", 1),
            },
            "a block in it is cut off, damaged or encrypted",
        ),
        (
            {"tls.crt": pem("client.crt"), "tls.key": pem("client.key").replace("\n-----END", "AAAA\n-----END")},
            "a key in it cannot be parsed",
        ),
        (
            {"tls.crt": pem("client.crt"), "tls.key": pem("client.key").replace("MIG", "AAA")},
            "a key in it cannot be parsed",
        ),
    ],
)
def test_a_client_certificate_that_a_runtime_could_not_read_is_refused(data: dict[str, str], remedy: str) -> None:
    mirror = with_ca(clientCertificateRef={"name": "client"})
    error = failure(mirror, sources(("Secret", "client", {**data})))

    assert error.reason == "ReferenceInvalid"
    assert remedy in str(error)


def test_a_client_certificate_may_be_a_chain_and_the_key_may_follow_its_parameters() -> None:
    key = pem("client.key").replace("PRIVATE KEY", "EC PRIVATE KEY")
    parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    data: dict[str, str | bytes] = {"tls.crt": pem("client.crt") + CA, "tls.key": parameters + key}
    tls = (
        resolve(with_ca(clientCertificateRef={"name": "client"}), sources(("Secret", "client", data))).endpoints[0].tls
    )

    assert tls is not None
    assert tls.certificate == pem("client.crt") + CA
    assert tls.key == key


@pytest.mark.parametrize(
    ("body", "data"),
    [
        ({"kind": "Secret", "stringData": {"a": "b"}}, {"a": b"b"}),
        ({"kind": "Secret", "data": {"a": "Yg=="}}, {"a": b"b"}),
        ({"kind": "Secret", "data": {"a": "Y\ng=\r\n=\n"}}, {"a": b"b"}),  # as in a YAML block; the API server takes it
        ({"kind": "Secret", "data": {"a": "Yg=="}, "stringData": {"a": "c"}}, {"a": b"c"}),
        ({"kind": "ConfigMap", "data": {"a": "Yg=="}}, {"a": b"Yg=="}),
        ({"kind": "ConfigMap", "binaryData": {"a": "Yg=="}}, {"a": b"b"}),
        ({"kind": "Secret", "data": None}, {}),
        ({"kind": "Secret"}, {}),
    ],
)
def test_a_source_is_read_in_all_its_forms(body: dict[str, Any], data: dict[str, bytes]) -> None:
    assert source({**body, "metadata": {"name": "x"}}).data == data


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"kind": "Secret", "data": {"a": "canary!"}}, "data.a: write base64"),
        ({"kind": "Secret", "data": {"a": 5}}, "data.a: write base64"),
        ({"kind": "Secret", "data": {"a": "canaryü"}}, "data.a: write base64"),
        ({"kind": "Secret", "stringData": {"a": 5}}, "stringData.a: write text (in quotes)"),
        ({"kind": "Secret", "stringData": {"a": "canary\ud800"}}, "stringData.a: write text (in quotes)"),
        ({"kind": "ConfigMap", "data": {"a": True}}, "data.a: write text (in quotes)"),
        ({"kind": "Secret", "data": ["canary"]}, "data: write keys and values"),
        ({"kind": "Secret", "metadata": {}}, "metadata.name: give the object a name"),
        ({"kind": "Secret", "metadata": ["canary"]}, "metadata.name: give the object a name"),
        ({"kind": "Secret", "metadata": {"name": 5}}, "metadata.name: give the object a name"),
    ],
)
def test_a_source_that_cannot_be_read_is_an_error_without_its_value(body: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidError) as caught:
        source({"metadata": {"name": "x"}, **body})

    assert caught.value.detail == expected
    assert "canary" not in str(caught.value)


def test_no_secret_shows_in_repr_or_str() -> None:
    mirror = complete()
    key_line = pem("client.key").splitlines()[1]

    for thing in (mirror, mirror.endpoints[0], *COMPLETE.values(), mirror.endpoints[0].credentials):
        for text in (repr(thing), str(thing), f"{thing}"):
            for secret in ("swordfish", base64.b64encode(b"robot:swordfish").decode(), 'identity"', key_line):
                assert secret not in text
    assert "identity'" not in repr(mirror)
