"""The dataset's metadata as Croissant 1.0 (https://docs.mlcommons.org/croissant/docs/croissant-spec.html)."""

from __future__ import annotations

from typing import Any

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

#: Columns of the sample table that most readers want, and their types.
_FIELDS = {
    "key": "sc:Text", "shard": "sc:Text", "lon": "sc:Float", "lat": "sc:Float", "gsd_x": "sc:Float",
    "gsd_y": "sc:Float", "split": "sc:Text", "n_rs": "sc:Integer", "n_point": "sc:Integer", "n_line": "sc:Integer",
    "n_polygon": "sc:Integer", "n_streetview": "sc:Integer", "rs_time": "sc:Text", "osm_time": "sc:Text",
}  # fmt: skip


def croissant(document: dict[str, Any], licences: list[str]) -> dict[str, Any]:
    """The content of croissant.json: the shards as a file set, and the sample table as a record set.

    Args:
        document: dataset.json.
        licences: all of them.
    """
    content = document["content_hash"]
    credit = "; ".join(f"{s['kind']}: {s['name']} ({s['licence']})" for s in document["sources"])
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
        "distribution": [_files("shards", "application/x-tar", "shards/*.tar"),
                         _files("samples", "application/x-parquet", "catalog/samples/*.parquet")],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "sample",
                "name": "sample",
                "key": {"@id": "sample/key"},
                "field": [_field(name, kind) for name, kind in _FIELDS.items()],
            }
        ],
    }  # fmt: skip


def _files(name: str, encoding: str, pattern: str) -> dict[str, Any]:
    return {"@type": "cr:FileSet", "@id": name, "name": name, "encodingFormat": encoding, "includes": pattern}


def _field(name: str, kind: str) -> dict[str, Any]:
    source = {"fileSet": {"@id": "samples"}, "extract": {"column": name}}
    return {"@type": "cr:Field", "@id": f"sample/{name}", "name": f"sample/{name}", "dataType": kind, "source": source}
