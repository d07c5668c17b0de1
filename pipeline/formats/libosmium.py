"""OSM files of any format as libosmium reads them, and files that it writes."""

from __future__ import annotations

import bz2
import ctypes
import gzip
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from xml.parsers import expat

import osmium
from osmium.replication.utils import ReplicationHeader, get_replication_header

from schemas.errors import InputError, at_the_door, reason_of

_OBJECTS = osmium.osm.NODE | osmium.osm.WAY | osmium.osm.RELATION
#: Bytes of a file that are looked at at a time until its first element.
_HEAD = 4096


def objects_of(path: Path) -> Any:
    """Nodes, ways and relations, with the file's ``header``; changesets are skipped."""
    return osmium.FileProcessor(str(path), _OBJECTS)


def replication_header(path: Path) -> ReplicationHeader:
    """Server (``url``), number (``sequence``) and time (``timestamp``) of the state of an extract; None what its header
    does not say.

    Raises:
        InputError: it cannot be read.
    """
    with at_the_door(f"OSM extract {path} cannot be read", "download it again"):
        return get_replication_header(str(path))


@contextmanager
def osm_writer(path: Path, form: str = "", **options: Any) -> Iterator[osmium.SimpleWriter]:
    """A file that the block fills with objects; what is there goes.

    Args:
        path: the file.
        form: its format in libosmium's words; as its name says where empty.
        options: of ``osmium.SimpleWriter``: ``header``, ``bufsz``.

    Raises:
        InputError: the disk does not take it.
    """
    writer = osmium.SimpleWriter(osmium.io.File(str(path), form), overwrite=True, **options)
    try:
        try:
            yield writer
        finally:
            writer.close()
    except RuntimeError as error:
        try:
            writer.close()  # of one that is closed nothing comes
        except RuntimeError:
            # Its destructor would try once more, and end the process: it never runs.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(writer))
            said = reason_of(error)
            raise InputError(f"{path} cannot be written: {said}; free space, or choose another folder") from None
        raise


def refuse_document_type(path: Path, what: str) -> None:
    """Before its first element an XML file declares no document type: it could name entities, which would be read
    from elsewhere, or be lost, or grow without bound. Files of other formats pass.

    Raises:
        InputError: it does; ``what`` names it.
        OSError, zlib.error: it cannot be read.
    """
    opened: Any = {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix, open)
    parser = expat.ParserCreate()
    found: list[str] = []
    parser.StartDoctypeDeclHandler = lambda *_: found.append("doctype")
    parser.StartElementHandler = lambda *_: found.append("element")
    with opened(path, "rb") as file, suppress(expat.ExpatError, EOFError):  # what is no XML libosmium says better
        while not found and (data := file.read(_HEAD)):
            parser.Parse(data)
    if found[:1] == ["doctype"]:
        raise InputError(
            f"{what} declares a document type (<!DOCTYPE), which no file of OSM has; take it out, or get the file anew"
        )
