"""Street view: photos with positions, from files or services, paired with footprints and encoded as SV images.

The way of a photo: a source (`table`, `folder`, `panoramax`, `mapillary`, `kartaview`; opened by `sources.open_source`)
lists rows of `record.PHOTOS` for an area; `filters` takes out what the settings exclude; `pairing` finds the footprints
that each stands in; `choice` keeps at most K a footprint; `plan` does all of that and has the chosen photos fetched
into the cache (`store`); `encode` turns one footprint's photos into JPEGs. What is left out anywhere is a row of DROPS.
"""
