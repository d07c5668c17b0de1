"""Every process of a test starts as one of `make shards` does, where neither pandas nor boto3 is installed.

Arrow asks for pandas at its first array of a list, rasterio for boto3 when it is imported: both can do without, and
together they take as long as all else that geoshards imports. Whoever else asks for one gets it.
"""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = f"{Path(__file__).resolve().parents[2]}/"


def _does_without(name: str, file: str) -> bool:
    """Whether what a file asks for is left out. Arrow is compiled: the file is that of the line which called it."""
    if name == "pandas":
        return "/pyarrow/" in file or (file.startswith(_ROOT) and "/site-packages/" not in file)
    return name == "boto3" and "/rasterio/" in file


class _Lean:
    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        """Raises ModuleNotFoundError for what is left out."""
        if name in ("pandas", "boto3"):
            frame = sys._getframe(1)
            while frame.f_back is not None and frame.f_code.co_filename.startswith("<frozen"):
                frame = frame.f_back
            if _does_without(name, frame.f_code.co_filename):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, _Lean)  # type: ignore[arg-type]
