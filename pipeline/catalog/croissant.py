"""The dataset's metadata as Croissant 1.0 (https://docs.mlcommons.org/croissant/docs/croissant-spec.html)."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from schemas.catalog import TABLES

#: Words of the format: those that mean ``cr:`` and themselves, and the others.
_CR = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format",
    "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
    "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
_CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/", "dct": "http://purl.org/dc/terms/",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "conformsTo": "dct:conformsTo", "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "examples": {"@id": "cr:examples", "@type": "@json"},
} | {word: f"cr:{word}" for word in _CR}  # fmt: skip

#: Columns without a field: no type of the format says what they are, or only a build needs them.
_LEFT_OUT = frozenset({"geometry", "bbox", "planned", "inputs"})
#: Record sets by the catalog table they are.
_RECORD_SETS = {"sample": "samples", "photo": "streetview", "shard": "shards"}
_KEYS = {"sample": ["key"], "photo": ["key", "member"], "shard": ["shard"]}


def croissant(document: dict[str, Any], licences: list[str]) -> dict[str, Any]:
    """The content of croissant.json: shards and tables as file sets; samples with members, photos and shards, with
    the SHA-256 of each sample and shard, as record sets.

    Args:
        document: dataset.json.
        licences: all of them.
    """
    content = document["content_hash"]
    credit = "; ".join(f"{s['kind']}: {s['name']} ({s['licence']})" for s in document["sources"])
    tables = [_files(table, "application/x-parquet", f"catalog/{table}/*.parquet") for table in _RECORD_SETS.values()]
    # No byte of a dataset depends on the day of its build: the newest day of its sources stands for it.
    days = [str(s["date"])[:10] for s in document["sources"] if s.get("date")]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": document["name"],
        "description": "Remote-sensing tiles with OpenStreetMap tokens and street-view photos, in WebDataset shards. "
        f"Made from {credit}.",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "citeAs": f"{document['name']}, content hash {content}. Sources: {credit}",
        "license": licences,
        "version": f"1.0.0+{content[:12]}",
        "identifier": content,
        "distribution": [_files("tars", "application/x-tar", "shards/*.tar"), *tables],
        **({"datePublished": max(days)} if days else {}),
        "recordSet": [_record_set(name, table) for name, table in _RECORD_SETS.items()],
    }


def _record_set(name: str, table: str) -> dict[str, Any]:
    columns = [column for column in TABLES[table] if column.name not in _LEFT_OUT]
    key = [{"@id": f"{name}/{column}"} for column in _KEYS[name]]
    return {
        "@type": "cr:RecordSet", "@id": name, "name": name, "key": key if len(key) > 1 else key[0],
        "field": [_column(name, table, column) for column in columns],
    }  # fmt: skip


def _files(name: str, encoding: str, pattern: str) -> dict[str, Any]:
    return {"@type": "cr:FileSet", "@id": name, "name": name, "encodingFormat": encoding, "includes": pattern}


def _column(record_set: str, table: str, column: pa.Field) -> dict[str, Any]:
    """A column as a field; a list is repeated, and one of structs has a field for each of their parts."""
    place = f"{record_set}/{column.name}"
    many = pa.types.is_list(column.type)
    if many and pa.types.is_struct(column.type.value_type):
        parts = [
            _field(f"{place}/{part.name}", part.type, table, column.name, {"transform": {"jsonPath": part.name}})
            for part in column.type.value_type
        ]
        return {"@type": "cr:Field", "@id": place, "name": place, "repeated": True, "subField": parts}
    found = _field(place, column.type.value_type if many else column.type, table, column.name, {})
    return found | ({"repeated": True} if many else {})


def _field(place: str, kind: pa.DataType, table: str, column: str, more: dict[str, Any]) -> dict[str, Any]:
    data_type = "sc:Integer" if pa.types.is_integer(kind) else "sc:Float" if pa.types.is_floating(kind) else "sc:Text"
    source = {"fileSet": {"@id": table}, "extract": {"column": column}} | more
    return {"@type": "cr:Field", "@id": place, "name": place, "dataType": data_type, "source": source}
