"""A bundle is equal for equal content, tells nothing to who has no key, and is never half read."""

from __future__ import annotations

import lzma

import pytest

from registry_mirror.api.errors import InvalidError
from registry_mirror.core import bundle as bundles
from registry_mirror.core.bundle import Bundle, File, Rendered, StartSetting, seal
from tests.pure.builders import USER, endpoint, mirror

KEY = b"k" * 32
CANARY = "canary-77aa"
SOURCES = (mirror("docker.io", endpoint("https://a.example", credentials=USER)),)
RENDERED = Rendered(
    (File(path="/a", content="first"), File(path="/b", content=CANARY, mode=0o600)),
    {"x": StartSetting(CANARY, frozenset({"m"})), "w": StartSetting("", frozenset())},
)


def sealed(rendered: Rendered = RENDERED, key: bytes = KEY) -> Bundle:
    return seal("k3s", rendered, SOURCES, key)


def test_the_same_content_has_the_same_revision_and_the_same_bytes() -> None:
    reordered = Rendered(RENDERED.files, dict(sorted(RENDERED.start_settings.items())))

    assert sealed() == sealed(reordered)
    assert bundles.encode(sealed()) == bundles.encode(sealed(reordered))
    assert sealed().name == f"bundle-{sealed().revision}"


def test_the_sources_are_no_part_of_the_revision() -> None:
    assert seal("k3s", RENDERED, (), KEY).revision == sealed().revision


FIRST, SECOND = RENDERED.files
OTHERS: dict[str, Bundle] = {
    "content": sealed(Rendered((File(path="/a", content="First"), SECOND), RENDERED.start_settings)),
    "path": sealed(Rendered((File(path="/A", content="first"), SECOND), RENDERED.start_settings)),
    "mode": sealed(Rendered((File(path="/a", content="first", mode=0o600), SECOND), RENDERED.start_settings)),
    "order": sealed(Rendered((SECOND, FIRST), RENDERED.start_settings)),
    "one less": sealed(Rendered((FIRST,), RENDERED.start_settings)),
    "setting": sealed(Rendered(RENDERED.files, {**RENDERED.start_settings, "x": StartSetting("y", frozenset())})),
    "settings": sealed(Rendered(RENDERED.files, {})),
    "runtime": seal("rke2", RENDERED, SOURCES, KEY),
    "key": sealed(key=b"l" * 32),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_any_difference_is_another_revision(other: Bundle) -> None:
    assert other.revision != sealed().revision


def test_another_key_gives_other_digests_for_everything() -> None:
    ours, others = sealed(), sealed(key=b"l" * 32)

    assert not {item.digest for item in ours.files} & {item.digest for item in others.files}
    assert not set(ours.start_settings.values()) & set(others.start_settings.values())


def test_where_a_part_of_a_digest_ends_matters() -> None:
    assert bundles.digest(KEY, "ab", "c") != bundles.digest(KEY, "a", "bc")
    assert bundles.digest(KEY, "a", "") != bundles.digest(KEY, "a")


def test_equal_content_in_two_places_does_not_show() -> None:
    rendered = Rendered((File(path="/a", content="x"), File(path="/b", content="x")))

    assert len({item.digest for item in sealed(rendered).files}) == 2


def test_what_the_api_shows_holds_no_content() -> None:
    found = sealed()
    shown = [found.revision, found.name, *(item.digest for item in found.files), *found.start_settings.values()]

    assert all(set(text.removeprefix("bundle-")) <= set("0123456789abcdef") for text in shown)
    assert all(len(text.removeprefix("bundle-")) == 40 for text in shown)
    for secret in (CANARY, "swordfish"):
        assert secret not in repr(found)
        assert secret not in repr(RENDERED)


def test_a_bundle_reads_back_as_itself() -> None:
    assert bundles.decode(bundles.encode(sealed())) == sealed()


RAW = bundles.encode(sealed())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        CANARY.encode(),
        RAW[:5],
        RAW[: len(RAW) // 2],
        RAW[:-1],
        RAW[:-8] + b"\0" * 8,
        RAW[:20] + bytes([RAW[20] ^ 0xFF]) + RAW[21:],
        RAW + CANARY.encode(),
        lzma.compress(b""),
        lzma.compress(CANARY.encode()),
        lzma.compress(b'{"revision": "' + CANARY.encode()),
        lzma.compress(b'{"revision": "x", "runtime": "' + CANARY.encode() + b'", "files": []}'),
        lzma.compress(b'{"revision": "x", "runtime": "k3s", "files": [{"path": "' + CANARY.encode() + b'"}]}'),
        lzma.compress(b"\xff\xfe"),
        lzma.compress(b'{"x": ' + b"[" * 100_000),
    ],
    ids=range(15),
)
def test_anything_else_is_refused_without_its_content(raw: bytes) -> None:
    with pytest.raises(InvalidError) as caught:
        bundles.decode(raw)

    assert caught.value.reason == "BundleInvalid"
    assert CANARY not in str(caught.value)


def test_a_bomb_is_refused_once_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "_MAX_DECODED", len(lzma.decompress(RAW)) + 10)
    assert bundles.decode(RAW) == sealed()

    padded = lzma.compress(lzma.decompress(RAW) + b" " * 1000)  # valid JSON, only too long
    with pytest.raises(InvalidError) as caught:
        bundles.decode(padded)
    assert caught.value.reason == "BundleInvalid"
