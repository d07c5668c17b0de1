"""Paths and URLs mean the same to every part, and printed ones hold no secrets."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from schemas.errors import ConfigError, InputError
from storage.urls import absolute, cache_folder, expand, file_system, is_local, is_web, shown

URLS = (
    "data/demo", "/data/demo", "~/demo", "file:///data/demo", "local:///data/demo", "s3://bucket/a", "memory://a",
    "http://h/a", "https://h/a", "simplecache::s3://b/a",
)  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_what_is_local_is_what_fsspec_opens_as_a_local_file(url: str) -> None:
    assert is_local(url) == (fsspec.core.split_protocol(url)[0] in (None, "file", "local"))


@pytest.mark.parametrize("url", [u for u in URLS if is_local(u)])
def test_a_local_path_is_expanded_as_fsspec_does(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert absolute(url) == fsspec.core.url_to_fs(url)[1]
    assert expand(f"{url}/") == expand(url)


def test_urls_keep_their_form_but_for_the_slash_at_their_end() -> None:
    assert expand("s3://bucket/a/") == absolute("s3://bucket/a") == "s3://bucket/a"
    assert expand("/") == expand(Path("/")) == "/"


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///", "s3:///run", "s3:/bucket/run", "gs://", "https:///x", "S3://", "s3:/"]
)
def test_a_store_without_its_name_is_refused_and_becomes_no_folder(url: str) -> None:
    with pytest.raises(ConfigError, match="names no bucket or host"):
        expand(url)
    assert [expand(u) for u in ("s3://b", "s3://b//x", "s3:", "d/s3:/x", "https://h/x")] == [
        "s3://b", "s3://b//x", "s3:", "d/s3:/x", "https://h/x",
    ]  # fmt: skip


def test_only_http_with_a_host_is_of_the_web() -> None:
    assert is_web("https://h.org/a")
    assert not any(map(is_web, ("https:///a", "s3://h/a", "ftp://h/a", "a.tif", "http://[::1")))


def test_printed_addresses_hold_no_secrets() -> None:
    assert shown("https://u:p@h.org:8/a/b?t=1#f") == "https://h.org:8/a/b"
    assert shown("http://[::1") == "(an address that cannot be read)"


def test_one_rule_says_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GEOSHARDS_CACHE", raising=False)
    assert cache_folder() == Path("data/cache")
    monkeypatch.setenv("GEOSHARDS_CACHE", "")
    assert cache_folder() == Path("data/cache")  # empty is unset
    monkeypatch.setenv("GEOSHARDS_CACHE", "~/cache")
    assert cache_folder() == tmp_path / "cache"
    assert cache_folder("~/mine") == tmp_path / "mine"  # a setting goes before the variable


@pytest.mark.parametrize("url", ["ftp://user:secret@host/x", "what://x/y"])
def test_an_address_of_no_store_is_named_with_what_can_be_given(url: str) -> None:
    with pytest.raises(InputError, match=rf"^{url[:4].rstrip(':')}.*://.* is no address .*s3://.*https://") as error:
        file_system(url)
    assert "secret" not in str(error.value)
