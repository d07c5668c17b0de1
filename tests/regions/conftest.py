"""A mirror to ask for diffs."""

from tests.net.conftest import mirror

__all__ = ["mirror"]
