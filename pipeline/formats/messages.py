"""Messages of protocol buffers, parsed by the protobuf library from the text that specifies them."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

_MESSAGE = re.compile(r"message (\w+) \{(.*?)\}", re.DOTALL)
_FIELD = re.compile(r"(optional|repeated) (\w+) (\w+) = (\d+)(?: \[default = (\w+)\])?;")


def declare(text: str) -> SimpleNamespace:
    """Message classes as attributes, from a ``.proto`` text of plain fields; lists of numbers are written packed.

    A packed list may be declared as ``bytes``, which it is on the wire, to be read as an array.

    >>> declare("message Place { optional sint64 lon = 1; repeated uint32 tags = 2; }").Place(tags=[7]).tags
    [7]
    """
    file = descriptor_pb2.FileDescriptorProto(name="declared.proto")
    for name, body in _MESSAGE.findall(text):
        fields = file.message_type.add(name=name).field
        for label, kind, field, number, default in _FIELD.findall(body):
            of_messages = kind[0].isupper()
            own = fields.add(
                name=field, number=int(number), label=f"LABEL_{label.upper()}",
                type="TYPE_MESSAGE" if of_messages else f"TYPE_{kind.upper()}",
                type_name=f".{kind}" if of_messages else None,
            )  # fmt: skip
            own.options.packed = label == "repeated" and not of_messages and kind not in ("bytes", "string")
            if default:
                own.default_value = default
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return SimpleNamespace(**message_factory.GetMessageClassesForFiles([file.name], pool))


def parse(kind: Any, data: bytes) -> Any:
    """A message of that class.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return kind.FromString(data)
    except message.DecodeError:
        raise ValueError(f"{kind.DESCRIPTOR.name} is damaged") from None
