"""Plain values out of a pickle, without unpickling: SkyScript's metadata files are pickles, and may come from anyone.

The opcodes are read one by one (``pickletools`` only takes them apart). Dicts, lists, tuples, strings, numbers and None
are built; NumPy scalars, the only objects that those files hold, are decoded from their bytes. Whatever would import or
call anything else is refused.
"""

from __future__ import annotations

import pickletools
import struct
from typing import Any

from schemas.errors import InputError, at_the_door

#: Names that a NumPy scalar is made of. They are recognised, never imported.
_DTYPE = ("numpy", "dtype")
_SCALAR = {("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar")}
_ENCODE = ("_codecs", "encode")  # how protocols 0 to 2 write bytes
_FORMATS = {"f8": "d", "f4": "f", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u8": "Q", "u4": "I", "u2": "H",
            "u1": "B", "b1": "?"}  # fmt: skip

_PUSH = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "FLOAT", "BINFLOAT", "SHORT_BINUNICODE",
    "BINUNICODE", "BINUNICODE8", "UNICODE", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "STRING", "BINSTRING",
    "SHORT_BINSTRING",
}  # fmt: skip


class _Mark:
    """Where the items of a list, dict or tuple begin."""


class _Name(tuple[str, str]):
    """A module and a name in it, not imported."""


class _Dtype:
    """A NumPy dtype: its code, and the byte order that its state gives."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "<"


def read_literal(data: bytes, limit: int = 1 << 20) -> Any:
    """The value that a pickle of plain values holds.

    Raises:
        InputError: it is no pickle, over ``limit`` bytes, or holds something else than plain values.
    """
    if len(data) > limit:
        raise InputError(f"a pickle of {len(data):,} bytes is no chip's metadata; write it as JSON")
    machine = _Machine()
    with at_the_door("it is no pickle of plain values", "write it as JSON"):
        for opcode, argument, _ in pickletools.genops(data):
            machine.step(opcode.name, argument)
        return machine.result()


class _Machine:
    """The part of the pickle machine that builds plain values."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def result(self) -> Any:
        """The one value left."""
        (value,) = self.stack
        if isinstance(value, (_Mark, _Name, _Dtype)):
            raise ValueError("it holds no value")
        return value

    def step(self, name: str, argument: Any) -> None:
        """One opcode."""
        match name:
            case "PROTO" | "FRAME" | "STOP":
                return
            case "MEMOIZE" | "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[len(self.memo) if name == "MEMOIZE" else int(argument)] = self.stack[-1]
            case "APPEND" | "APPENDS":
                items = self._taken(1) if name == "APPEND" else self._marked()
                self._top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._taken(2) if name == "SETITEM" else self._marked()
                self._top(dict).update(zip(items[::2], items[1::2], strict=True))
            case "BUILD":
                self._byte_order()
            case _:
                self.stack.append(argument if name in _PUSH else self._value(name, argument))

    def _value(self, name: str, argument: Any) -> Any:
        """What an opcode puts on the stack."""
        match name:
            case "NONE":
                return None
            case "NEWTRUE" | "NEWFALSE":
                return name == "NEWTRUE"
            case "MARK":
                return _Mark()
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                return {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]()
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                return tuple(self._taken(int(name[-1])))
            case "TUPLE":
                return tuple(self._marked())
            case "LIST":
                return self._marked()
            case "DICT":
                items = self._marked()
                return dict(zip(items[::2], items[1::2], strict=True))
            case "BINGET" | "LONG_BINGET" | "GET":
                return self.memo[int(argument)]
            case "GLOBAL" | "STACK_GLOBAL":
                return _Name(map(str, argument.split(" ", 1) if name == "GLOBAL" else self._taken(2)))
            case "REDUCE":
                return self._numpy()
            case _:
                raise InputError(f"its pickle opcode {name} builds no plain value; write it as JSON")

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"no {kind.__name__} to add to")
        return self.stack[-1]

    def _taken(self, count: int) -> list[Any]:
        """The topmost items, taken off."""
        items = self.stack[-count:]
        if len(items) < count:
            raise ValueError("too few items")
        del self.stack[-count:]
        return items

    def _marked(self) -> list[Any]:
        """Items above the last mark, taken off."""
        at = max(i for i, item in enumerate(self.stack) if isinstance(item, _Mark))
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _numpy(self) -> Any:
        """What a call gives: of NumPy's dtype or scalar, which are decoded here; of nothing else."""
        called, arguments = self._taken(2)
        if called == _DTYPE and isinstance(called, _Name) and arguments[0] in _FORMATS:
            return _Dtype(arguments[0])
        if isinstance(called, _Name) and called in _SCALAR and isinstance(arguments[0], _Dtype):
            dtype, raw = arguments
            data = raw if isinstance(raw, bytes) else str(raw).encode("latin-1")
            return struct.unpack(dtype.order + _FORMATS[dtype.code], data)[0]
        if called == _ENCODE and isinstance(called, _Name):
            return str(arguments[0]).encode("latin-1")
        what = ".".join(called) if isinstance(called, _Name) else type(called).__name__
        raise InputError(f"its pickle calls {what}, which is never done; write it as JSON")

    def _byte_order(self) -> None:
        """The state of a dtype; nothing else has one."""
        target, state = self.stack[-2], self.stack.pop()
        if not isinstance(target, _Dtype):
            raise InputError("its pickle sets the state of an object, which is never done; write it as JSON")
        target.order = ">" if state[1] == ">" else "<"
