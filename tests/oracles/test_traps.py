"""What runtimes.md says of the readers, and that a defect of a render would not pass them unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.oracles import Containerd, OracleError, RegistryHost, Wharfie

TABLE = '[host."https://mirror.example.com"]\n'
SERVER = 'server = "https://quay.io/v2"\n'


def read(containerd: Containerd, root: Path, text: str) -> list[str]:
    return [host.url for host in hosts(containerd, root, text)]


def hosts(containerd: Containerd, root: Path, text: str) -> tuple[RegistryHost, ...]:
    (root / "quay.io").mkdir()
    (root / "quay.io" / "hosts.toml").write_text(text)
    return containerd.hosts(root, "quay.io")


def test_without_any_host_table_the_bare_line_is_needed_by_the_old_line_only(
    containerd_1: Containerd, containerd_2: Containerd, tmp_path: Path
) -> None:
    with pytest.raises(OracleError, match="invalid `host` tree"):
        read(containerd_1, tmp_path, SERVER)
    assert [host.url for host in containerd_2.hosts(tmp_path, "quay.io")] == ["https://quay.io/v2"]


@pytest.mark.parametrize("bare", ["[host]\n", ""])
def test_hosts_are_asked_in_the_order_of_the_file_with_the_bare_line_or_without(
    bare: str, containerd_1: Containerd, containerd_2: Containerd, tmp_path: Path
) -> None:
    names = [f"https://{name}.example/v2" for name in "zyxabc"]
    text = SERVER + bare + "".join(f'[host."{name}"]\n' for name in names)

    assert read(containerd_1, tmp_path, text) == [*names, "https://quay.io/v2"]
    assert [host.url for host in containerd_2.hosts(tmp_path, "quay.io")] == [*names, "https://quay.io/v2"]


@pytest.mark.parametrize(
    "text",
    [
        f"server = https://quay.io/v2\n[host]\n{TABLE}",
        f"{SERVER}[host]\n{TABLE}{TABLE}",
        f'{SERVER}[host]\n{TABLE}  capabilities = ["fly"]\n',
    ],
    ids=["unquoted", "duplicate table", "unknown capability"],
)
def test_what_containerd_only_logs_is_an_error_here(
    text: str, containerd_1: Containerd, containerd_2: Containerd, tmp_path: Path
) -> None:
    for containerd in (containerd_1, containerd_2):
        root = tmp_path / str(id(containerd))
        root.mkdir()
        with pytest.raises(OracleError, match=r"failed to decode|unknown capability"):
            read(containerd, root, text)


def test_a_quoted_bracket_in_a_table_name_is_too_much_for_the_old_line(
    containerd_1: Containerd, containerd_2: Containerd, tmp_path: Path
) -> None:
    """So an IPv6 address in an endpoint would have the whole file ignored there: IPv6Unsupported."""
    text = f'{SERVER}[host]\n[host."http://[fd00::1]:5000/v2"]\n'

    assert read(containerd_2, tmp_path, text) == ["http://[fd00::1]:5000/v2", "https://quay.io/v2"]
    with pytest.raises(OracleError, match="table key cannot contain"):
        containerd_1.hosts(tmp_path, "quay.io")


def test_a_registry_on_the_node_is_tried_without_verification_and_then_over_http(
    containerd_1: Containerd, containerd_2: Containerd, tmp_path: Path
) -> None:
    """No `server` says that, so none is written for such a registry."""
    for containerd in (containerd_1, containerd_2):
        (own,) = containerd.hosts(tmp_path, "localhost:5000")
        assert (own.scheme, own.skip_verify, own.http_fallback) == ("https", True, True)


def test_a_missing_ca_file_fails_the_whole_pull(containerd_2: Containerd, tmp_path: Path) -> None:
    with pytest.raises(OracleError, match="unable to read CA cert"):
        read(containerd_2, tmp_path, f'{SERVER}[host]\n{TABLE}  ca = ["gone.crt"]\n')


def test_a_tls_key_on_a_plain_http_host_makes_containerd_try_https(
    containerd_1: Containerd, containerd_2: Containerd, tmp_path: Path
) -> None:
    text = f'{SERVER}[host]\n[host."http://10.0.0.1:5000"]\n  skip_verify = false\n'

    assert hosts(containerd_1, tmp_path, text)[0].http_fallback
    assert containerd_2.hosts(tmp_path, "quay.io")[0].http_fallback


def test_a_directory_with_a_host_port_name_shadows_the_usual_one(containerd_2: Containerd, tmp_path: Path) -> None:
    for directory, name in (("quay.io:443", "a"), ("quay.io_443_", "b")):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "hosts.toml").write_text(f'server = "https://{name}.example"\n')

    assert [host.host for host in containerd_2.hosts(tmp_path, "quay.io:443")] == ["b.example"]


def test_a_directory_without_hosts_toml_hides_the_default(containerd_2: Containerd, tmp_path: Path) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text('server = "https://mirror.example.com"\n')
    assert containerd_2.hosts(tmp_path, "quay.io")[0].host == "mirror.example.com"

    (tmp_path / "quay.io").mkdir()
    assert containerd_2.hosts(tmp_path, "quay.io")[0].host == "quay.io"


def test_wharfie_ignores_unknown_keys_and_refuses_bad_yaml(wharfie: Wharfie, tmp_path: Path) -> None:
    file = tmp_path / "registries.yaml"
    file.write_text("mirrors:\n  quay.io: {endpoints: [x]}\nconfigs: {quay.io: {auth: {token: x}}}\n")
    found = wharfie.registries(file)
    assert found["mirrors"]["quay.io"]["endpoint"] is None
    assert not any(found["configs"]["quay.io"]["auth"].values())

    file.write_text("mirrors: [")
    with pytest.raises(OracleError):
        wharfie.registries(file)
