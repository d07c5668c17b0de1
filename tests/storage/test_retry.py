"""One loop asks again: longer and longer pauses, an end, and no second try of what another one does not mend."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DatasetError, InputError
from storage.retry import ATTEMPTS, Patience, patiently, retry


@given(st.integers(1, 40), st.floats(0, 5), st.floats(0, 60), st.floats(0, 90))
def test_pauses_double_up_to_the_longest_and_end(attempts: int, first: float, longest: float, least: float) -> None:
    pauses: list[float] = []
    patience = Patience(attempts, first, longest, pauses.append)
    while patience.again(least):
        pass
    assert len(pauses) == attempts - 1
    for k, pause in enumerate(pauses):
        drawn = min(longest, max(least, first * 2.0 ** min(k, 30)))
        assert min(longest, max(least, drawn / 2)) - 1e-9 <= pause <= drawn


def test_success_ends_the_loop_and_the_last_error_comes_out() -> None:
    pauses: list[float] = []
    asked: list[int] = []

    def third() -> str:
        asked.append(1)
        if len(asked) < 3:
            raise TimeoutError(len(asked))
        return "there"

    def never() -> str:
        raise TimeoutError("never")

    def passes(error: Exception) -> float | None:
        return 7.0 if isinstance(error, TimeoutError) else None

    assert retry(third, passes, Patience(5, 0.0, 60.0, pauses.append)) == "there"
    assert pauses == [7.0, 7.0]  # as the service asks
    with pytest.raises(TimeoutError, match="never"):
        retry(never, passes, Patience(2, 0.0, 60.0, pauses.append))
    assert len(pauses) == 3


def failing(error: Exception, times: int) -> tuple[list[int], object]:
    asked: list[int] = []

    def fetch() -> str:
        asked.append(1)
        if len(asked) <= times:
            raise error
        return "there"

    return asked, fetch


@pytest.mark.parametrize("error", [FileNotFoundError(), NotADirectoryError(), InputError("no")])
def test_what_another_attempt_does_not_mend_is_asked_for_once(error: Exception) -> None:
    asked, fetch = failing(error, 1)
    with pytest.raises(type(error)):
        patiently("s3://b/x", fetch)  # type: ignore[arg-type]
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            PermissionError("The provided token has expired."),
            DatasetError,
            "expired.; set or renew the store's credentials",
        ),
        (OSError(22, "Bad Request"), DatasetError, "credentials"),  # a HEAD with such a token has no other words
        (PermissionError("The AWS Access Key Id you provided does not exist"), DatasetError, "credentials"),
        (PermissionError("Access Denied"), InputError, "s3://b/x: Access Denied; check your rights to the store"),
    ],
)
def test_who_may_not_ask_is_told_so_at_once_with_the_address(
    error: Exception, kind: type[Exception], said: str
) -> None:
    asked, fetch = failing(error, 1)
    with pytest.raises(kind, match=said) as found:
        patiently("s3://b/x", fetch)  # type: ignore[arg-type]
    assert str(found.value).startswith("s3://b/x: ")
    assert len(asked) == 1


@pytest.mark.parametrize(
    "error",
    [
        OSError(22, "The Content-MD5 you specified did not match what we received"),
        OSError(5, "Bad Request"),  # of a proxy on the way
        ConnectionError("the connection that a signature was sent over has expired"),
        TimeoutError("no answer within 400 s"),
    ],
    ids=str,
)
def test_what_passes_is_asked_for_again_although_it_is_no_argument(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.retry.FIRST_PAUSE", 0.0)
    asked, fetch = failing(error, 2)
    assert patiently("s3://b/x", fetch) == "there"  # type: ignore[arg-type]
    assert len(asked) == 3


def test_a_listed_file_that_a_store_does_not_find_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.retry.FIRST_PAUSE", 0.0)
    asked, fetch = failing(FileNotFoundError(), 2)
    assert patiently("s3://b/x", fetch, listed=True) == "there"  # type: ignore[arg-type]
    assert len(asked) == 3


def test_a_store_that_does_not_answer_is_named_with_its_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.retry.FIRST_PAUSE", 0.0)
    asked, fetch = failing(RuntimeError("slow down"), 99)
    with pytest.raises(DatasetError, match=r"s3://b/x: no answer after 8 attempts \(RuntimeError: slow down\)"):
        patiently("s3://b/x", fetch)  # type: ignore[arg-type]
    assert len(asked) == ATTEMPTS


def test_what_is_local_is_asked_for_once() -> None:
    asked, fetch = failing(OSError("disk"), 1)
    with pytest.raises(OSError, match="disk"):
        patiently("file:///x", fetch)  # type: ignore[arg-type]
    assert len(asked) == 1
