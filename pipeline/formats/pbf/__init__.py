"""OSM PBF files as numpy arrays: bytes in, arrays out (https://wiki.openstreetmap.org/wiki/PBF_Format).

A file is a row of blobs (``blobs``): a header (``header``), then blocks of objects (``block``), read as ``arrays``.
All objects of a block are decoded at once, in the plain form in which known programs write them (``plain``). A block
in any other legal encoding (fields in any order, unknown or split ones, lists that are not packed, numbers longer than
need be) is read by the protobuf library instead (``parsed``), which is slower and has the last word on damage.
"""
