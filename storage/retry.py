"""What fails now and then is asked for again: one loop, with longer and longer pauses, for stores and for services."""

from __future__ import annotations

import errno
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import pyarrow as pa

from schemas.errors import DatasetError, GeoshardsError, InputError, NoAnswerError, reason_of
from storage.urls import is_local

T = TypeVar("T")

#: Attempts, and seconds before the second one; each further pause is twice as long, up to the most.
ATTEMPTS, FIRST_PAUSE, LONGEST_PAUSE = 8, 0.05, 8.0
#: What is said of a store that answers a request for a range with the whole file.
NO_RANGES = "whole files came where ranges of bytes were asked for, which the store must be able to send"
#: What another attempt does not mend.
_FINAL = (
    FileNotFoundError, NotADirectoryError, FileExistsError, NotImplementedError, GeoshardsError, pa.ArrowInvalid,
)  # fmt: skip
#: Errors of libraries that are not imported here, by name, and words of S3, Google and Azure that say that credentials
#: are missing, wrong or too old. An answer without a body has the first line of HTTP alone: S3's for a token that has
#: expired is no other than this.
_CREDENTIALS = re.compile(r"\w*Credential\w*Error|ProfileNotFound|TokenRetrievalError|UnauthorizedSSOTokenError")
_REFUSED = re.compile(
    r"expired|ExpiredToken|InvalidToken|TokenRefreshRequired|InvalidAccessKeyId|access key|SignatureDoesNotMatch|"
    r"signature|TooSkewed|Bad Request|Invalid Credentials|AuthenticationFailed|Unauthenticated|40[01]\b",
    re.I,
)


@dataclass
class Traffic:
    """What this process has exchanged with stores, and how often it had to ask one, or a service, again."""

    fetched: int = 0  # bytes
    sent: int = 0  # bytes
    retries: int = 0
    last: str = ""  # what failed last before it was asked for again


TRAFFIC = Traffic()


@dataclass
class Patience:
    """How often one thing is asked for, and how long the pauses are."""

    attempts: int = ATTEMPTS
    first: float = field(default_factory=lambda: FIRST_PAUSE)  # seconds
    longest: float = LONGEST_PAUSE  # seconds
    sleep: Callable[[float], object] = time.sleep
    failures: int = 0  # so far

    def again(self, least: float = 0.0) -> bool:
        """Wait after a failure, at least so many seconds but never over the longest; False after the last attempt."""
        self.failures += 1
        if self.failures >= self.attempts:
            return False
        seconds = self.first * 2.0 ** min(self.failures - 1, 30) * random.uniform(0.5, 1.0)
        self.sleep(min(max(seconds, least), self.longest))
        return True


def retry(attempt: Callable[[], T], passes: Callable[[Exception], float | None], patience: Patience) -> T:
    """``attempt()``, again after each failure that may pass, as long as patience lasts; then its last error.

    Args:
        passes: seconds to wait at least after an error, or None for one that another attempt does not mend.
    """
    while True:
        try:
            return attempt()
        except Exception as error:  # ``passes`` knows which
            least = passes(error)
            if least is None or not patience.again(least):
                raise
            TRAFFIC.retries += 1
            TRAFFIC.last = f"{type(error).__name__}: {reason_of(error)}"


def _is_about_credentials(error: BaseException) -> bool:
    known = _CREDENTIALS.match(type(error).__name__) is not None
    if known or not isinstance(error, OSError):
        return known
    denied = isinstance(error, PermissionError) or error.errno == errno.EINVAL
    return denied and _REFUSED.search(f"{error} {error.__cause__ or ''}") is not None


def patiently(url: str, fetch: Callable[[], T], listed: bool = False) -> T:
    """What ``fetch`` gives of ``url``, which is asked for up to ``ATTEMPTS`` times unless it is local.

    Args:
        listed: of a file that has been listed a store that fails may say that it is not found.

    Raises:
        NoAnswerError: the store does not answer.
        DatasetError: its credentials are missing or have expired.
        InputError: it may not be read or written.
        OSError: the file is not there; of a local file any error.
    """
    if is_local(url):
        return fetch()
    final = tuple(kind for kind in _FINAL if not (listed and kind is FileNotFoundError))

    def passes(error: Exception) -> float | None:
        return None if isinstance(error, (*final, PermissionError)) or _is_about_credentials(error) else 0.0

    try:
        found = retry(fetch, passes, Patience())
        TRAFFIC.fetched += len(found) if isinstance(found, bytes) else 0
        return found
    except Exception as error:  # every store has exceptions of its own
        if isinstance(error, final):
            raise
        said = " ".join(str(error).split())[:200]
        if _is_about_credentials(error):
            raise DatasetError(
                f"{url}: {said}; set or renew the store's credentials (AWS_…, say), then run the same again"
            ) from None
        if isinstance(error, PermissionError):
            raise InputError(f"{url}: {said}; check your rights to the store") from None
        raise NoAnswerError(
            f"{url}: no answer after {ATTEMPTS} attempts ({type(error).__name__}: {said}); check the store, then start "
            "again"
        ) from None
