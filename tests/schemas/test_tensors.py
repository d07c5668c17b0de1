"""Promises of tensors whose pages are checked as they are read."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import DatasetError
from schemas.tensors import PAGE, PagedTensors, paged, read_tensors

#: Three tensors of several pages each, the last one short.
HELD = {
    "wide": np.arange(5 * PAGE // 16 + 3, dtype="<f8").reshape(-1, 1),
    "words": np.arange(3 * PAGE // 4 + 5, dtype="<u4"),
    "text": np.arange(2 * PAGE + 7, dtype=np.uint8),
}
TYPES = {name: array.dtype for name, array in HELD.items()}
DATA = b"".join(paged(HELD, {"a": "b"}))


def damaged(name: str, at: int) -> PagedTensors:
    """The tensors with a flipped bit in byte ``at`` of one."""
    data = bytearray(DATA)
    data[data.index(HELD[name].tobytes()) + at] ^= 4
    return PagedTensors(data, TYPES, "here", "mend it")


@pytest.mark.parametrize("name", HELD)
def test_a_damaged_page_is_an_error_each_time_a_row_of_it_is_read_and_no_other_row_s(name: str) -> None:
    per_page = PAGE // (HELD[name].nbytes // len(HELD[name]))
    for page in range(-(-HELD[name].nbytes // PAGE)):
        own = np.arange(page * per_page, min((page + 1) * per_page, len(HELD[name])))
        others = np.setdiff1d(np.arange(len(HELD[name])), own)
        for at in (page * PAGE, min((page + 1) * PAGE, HELD[name].nbytes) - 1):
            tensors = damaged(name, at)
            np.testing.assert_array_equal(tensors.take(name, others), HELD[name][others])
            for rows in (own[:1], own[-1:], own[:1], None, None):  # asked again, it is not believed
                with pytest.raises(DatasetError, match=f"here is damaged: {name} is not what was written; mend it"):
                    tensors.take(name, rows)
            for other in HELD.keys() - {name}:
                np.testing.assert_array_equal(tensors.take(other), HELD[other])
                np.testing.assert_array_equal(tensors.take(other), HELD[other])
            with pytest.raises(DatasetError, match="is damaged"):
                tensors.take(name)


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"\0", DATA[:7], b""], ids=["cut", "longer", "head", "empty"])
def test_a_buffer_of_another_length_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="bytes"):
        read_tensors(data, TYPES)
    with pytest.raises(ValueError, match="bytes"):
        PagedTensors(data, TYPES, "here", "mend it")
