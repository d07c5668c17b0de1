"""GeoLink and GAIR trained together over one image encoder."""
