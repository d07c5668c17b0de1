"""OSM files of any format as libosmium reads them."""

from __future__ import annotations

import bz2
import gzip
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.parsers import expat

import osmium

from schemas.errors import InputError

_OBJECTS = osmium.osm.NODE | osmium.osm.WAY | osmium.osm.RELATION
#: Bytes of a file that are looked at at a time until its first element.
_HEAD = 4096


def objects_of(path: Path) -> Any:
    """Nodes, ways and relations, with the file's ``header``; changesets are skipped."""
    return osmium.FileProcessor(str(path), _OBJECTS)


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
