"""GeoLink and GAIR: encoders, fusion, local interpolation and their losses."""
