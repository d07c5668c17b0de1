"""A seeded small town as map, aerial image and street views: the embedded default region.

`build_demo` writes three files' worth of one world: `town.osm.pbf`, `aerial.tif` and a
folder `photos/` of geotagged JPEGs. All three show the same buildings, streets, trees,
fields and water. The build is a pure function of its parameters: the same parameters give
the same bytes.
"""

from pipeline.demo.build import DemoFiles, build_demo, built_in

__all__ = ["DemoFiles", "build_demo", "built_in"]
