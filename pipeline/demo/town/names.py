"""Names and free-text values of the demo map: several scripts, emoji, long and odd values."""

from __future__ import annotations

STREETS = (
    "Lindenweg", "Bahnhofstrasse", "Rosengasse", "Mühlegasse", "Kirchweg", "Schulstrasse", "Rheinstrasse",
    "Obere Gasse", "Im Winkel", "Feldweg", "Gartenstrasse", "Birkenallee", "Hofstatt", "Untergasse",
    "Via dal Lag", "Rue de l'Étang", "Marktstrasse", "Ahornweg", "Wiesenstrasse", "Am Bach", "Sonnenhalde",
)  # fmt: skip
TOWNS = ("Sankt Alban", "Niederau", "Lindach", "Obermoos", "Weissenried", "Talwil", "Brunnental", "Steinach")
POI_NAMES = (
    "Café Zentral", "Zum goldenen Löwen", "Bäckerei Müller", "寿司さくら", "مطعم دمشق", "Пекарня Мария",
    "Pizzeria Da Gino", "Ταβέρνα Ήλιος", "한국 식당", "Crêperie d'Armor", "🍕 Pizza Express 🚀", "שווארמה",
    "Dorfladen", "ร้านอาหารไทย", "Naïve & Söhne", "Apotheke am Markt", "\"Quotes\" & <angles>", "काठमाण्डू",
)  # fmt: skip
POIS: tuple[tuple[str, str], ...] = (
    ("shop", "bakery"), ("shop", "supermarket"), ("shop", "clothes"), ("shop", "hairdresser"), ("shop", "books"),
    ("amenity", "cafe"), ("amenity", "restaurant"), ("amenity", "pub"), ("amenity", "pharmacy"),
    ("amenity", "bank"), ("amenity", "post_office"), ("tourism", "hotel"), ("tourism", "museum"),
    ("office", "lawyer"), ("craft", "shoemaker"), ("amenity", "fast_food"), ("shop", "florist"),
)  # fmt: skip
SCRIPTS: dict[str, str] = {
    "name:ar": "سانت ألبان", "name:ja": "ザンクト・アルバン", "name:ru": "Санкт-Альбан", "name:zh": "聖奧爾本",
    "name:he": "סנקט אלבן", "name:el": "Άγιος Αλβανός", "name:hi": "संत अल्बान", "name:emoji": "🏔️🚂🌊",
}  # fmt: skip
LONG_VALUE = ("Lorem ipsum é " * 20)[:255]  # 255 characters, the longest value OSM allows
CONTROL_VALUE = "line one\nline two\ttab\x01\x1f\x7f\u200b\u202e end"
# What some places of interest say besides: (share up to here, tags).
POI_EXTRAS: tuple[tuple[float, dict[str, str]], ...] = (
    (0.3, {"opening_hours": "Mo-Fr 08:00-12:00,13:30-18:30; Sa 09:00-16:00; PH off"}),
    (
        0.4,
        {
            "payment:cards:contactless": "yes",
            "payment:notes": "no",
            "contact:website": "https://example.org/?a=1&b=ü",
        },
    ),
    (0.43, {"description": LONG_VALUE}),
    (0.45, {"note": CONTROL_VALUE}),
)


def street_name(axis: int, index: int, seed: int) -> str:
    """The name of the streets along a lattice line."""
    return STREETS[(index * 7 + axis * 11 + seed) % len(STREETS)]
