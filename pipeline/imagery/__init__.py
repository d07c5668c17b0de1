"""RS images of footprints: from raster files, STAC items or map tiles to pixels, and from pixels to members.

`sources` turns the setting ``imagery`` into scenes, `read` scenes and footprints into images, `encode` an image into a
member. Everything else is a part of one of these three.
"""
