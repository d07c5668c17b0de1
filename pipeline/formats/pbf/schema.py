"""fileformat.proto and osmformat.proto, as far as they are read, as message classes."""

from __future__ import annotations

import re

from pipeline.formats.messages import declare

#: A message that is there several times where one may be is merged: so all groups, whatever each mixes, are one.
_PROTO = """
message BlobHeader { optional string type = 1; optional int32 datasize = 3; }
message Blob {
    optional bytes raw = 1;
    optional int32 raw_size = 2;
    optional bytes zlib_data = 3;
    optional bytes lzma_data = 4;
    optional bytes bzip2_data = 5;
    optional bytes lz4_data = 6;
    optional bytes zstd_data = 7;
}
message HeaderBBox {
    optional sint64 left = 1;
    optional sint64 right = 2;
    optional sint64 top = 3;
    optional sint64 bottom = 4;
}
message HeaderBlock {
    optional HeaderBBox bbox = 1;
    repeated bytes required_features = 4;
    repeated bytes optional_features = 5;
    optional int64 osmosis_replication_timestamp = 32;
}
message StringTable { repeated bytes s = 1; }
message PrimitiveGroup {
    repeated bytes nodes = 1;
    repeated bytes dense = 2;
    repeated bytes ways = 3;
    repeated bytes relations = 4;
}
message PrimitiveBlock {
    optional StringTable stringtable = 1;
    optional PrimitiveGroup primitivegroup = 2;
    optional int32 granularity = 17 [default = 100];
    optional int32 date_granularity = 18 [default = 1000];
    optional int64 lat_offset = 19;
    optional int64 lon_offset = 20;
}
message Info { optional int32 version = 1; optional int64 timestamp = 2; optional bool visible = 6 [default = true]; }
message Node {
    optional sint64 id = 1;
    repeated uint32 keys = 2;
    repeated uint32 vals = 3;
    optional Info info = 4;
    optional sint64 lat = 8;
    optional sint64 lon = 9;
}
message Way {
    optional int64 id = 1;
    repeated uint32 keys = 2;
    repeated uint32 vals = 3;
    optional Info info = 4;
    repeated sint64 refs = 8;
    repeated sint64 lat = 9;
    repeated sint64 lon = 10;
}
message Relation {
    optional int64 id = 1;
    repeated uint32 keys = 2;
    repeated uint32 vals = 3;
    optional Info info = 4;
    repeated int32 roles_sid = 8;
    repeated sint64 memids = 9;
    repeated int32 types = 10;
}
message DenseInfo {
    repeated int32 version = 1;
    repeated sint64 timestamp = 2;
    repeated sint64 changeset = 3;
    repeated sint32 uid = 4;
    repeated sint32 user_sid = 5;
    repeated bool visible = 6;
}
message DenseNodes {
    repeated sint64 id = 1;
    repeated bytes denseinfo = 5;
    repeated sint64 lat = 8;
    repeated sint64 lon = 9;
    repeated int32 keys_vals = 10;
}
"""
#: Classes of the messages.
PBF = declare(_PROTO)
#: The same with each list as bytes, which a packed one is on the wire: to be decoded as an array.
PACKED = declare(re.sub(r"repeated (s?int32|sint64|bool) ", "repeated bytes ", _PROTO))
#: Of each message that becomes arrays: its fields and whether they are written zigzag, by number.
FIELDS = {
    kind: {f.number: (f.name, f.type == f.TYPE_SINT64) for f in kind.DESCRIPTOR.fields}
    for kind in (PBF.Node, PBF.Way, PBF.Relation, PBF.DenseNodes, PBF.DenseInfo)
}
