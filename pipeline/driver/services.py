"""One small question to each public service: whether its answers still have the shape that our code reads.

``python -m pipeline.driver.services [--at LON,LAT] [NAME …]``, which is `make check-services`; $GEOSHARDS_MIRROR and a
token in $MAPILLARY_TOKEN count as in a build. What is needed of an answer stands beside the code that reads it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator

from pipeline.imagery.stac.presets import PRESETS, Preset
from pipeline.imagery.stac.presets import needs as stac_needs
from pipeline.net.client import Client, Refused, Unavailable
from pipeline.net.config import NetConfig, base_url
from pipeline.net.shape import lacking
from pipeline.regions.index import NEEDS as INDEX_NEEDS
from pipeline.streetview.services import kartaview, mapillary, panoramax
from schemas.errors import GeoshardsError, InputError
from storage.text import visible

#: What is asked of a place with photos of every service: the middle of Paris.
PLACE = (2.3522, 48.8566)
Question = Callable[[Client, tuple[float, float]], list[str]]


def _box(place: tuple[float, float], degrees: float) -> str:
    lon, lat = place
    return ",".join(f"{v:.7f}" for v in (lon - degrees, lat - degrees, lon + degrees, lat + degrees))


def _geofabrik(client: Client, _: tuple[float, float]) -> list[str]:
    return lacking(client.get_json(f"{base_url('geofabrik')}/index-v1.json"), INDEX_NEEDS)


def _stac(name: str, preset: Preset) -> Question:
    def ask(client: Client, place: tuple[float, float]) -> list[str]:
        where = base_url(name, own=preset.url)
        collection = preset.collections[0]
        found = client.get_json(f"{where}/search", params={
            "collections": collection, "bbox": _box(place, 0.01), "datetime": preset.datetime, "limit": "1",
        })  # fmt: skip
        return lacking(found, stac_needs(preset, collection))

    return ask


def _panoramax(client: Client, place: tuple[float, float]) -> list[str]:
    found = client.get_json(f"{base_url('panoramax')}/api/search", params={"bbox": _box(place, 0.002), "limit": "5"})
    return lacking(found, panoramax.NEEDS)


def _kartaview(client: Client, place: tuple[float, float]) -> list[str]:
    found = client.get_json(f"{base_url('kartaview')}/2.0/photo/", params={
        "lat": f"{place[1]:.7f}", "lng": f"{place[0]:.7f}", "radius": "200", "join": "sequence,user",
        "itemsPerPage": "5", "page": "1",
    })  # fmt: skip
    return lacking(found, kartaview.NEEDS)


def _mapillary(client: Client, place: tuple[float, float]) -> list[str]:
    found = client.get_json(
        f"{base_url('mapillary')}/images",
        params={"bbox": _box(place, 0.002), "limit": "5", "fields": ",".join(mapillary.FIELDS)},
        headers={"Authorization": f"OAuth {mapillary.token()}"},
    )
    return lacking(found, mapillary.NEEDS)


QUESTIONS: dict[str, Question] = {
    "geofabrik": _geofabrik, **{name: _stac(name, preset) for name, preset in PRESETS.items()},
    "panoramax": _panoramax, "kartaview": _kartaview, "mapillary": _mapillary,
}  # fmt: skip


def check(names: list[str], place: tuple[float, float], net: NetConfig) -> Iterator[tuple[str, str, str]]:
    """Service, ``as known``, ``changed``, ``unreachable`` or ``not asked``, and what is to say of it."""
    client = Client(net)
    for name in names:
        if name == "mapillary" and not os.environ.get(mapillary.TOKEN):
            yield name, "not asked", f"{mapillary.TOKEN} is not set"
            continue
        try:
            lacks = QUESTIONS[name](client, place)
        except Unavailable as error:
            yield name, "unreachable", str(error)
        except Refused as error:
            yield name, "changed" if error.status in (400, 404, 405, 410) else "unreachable", str(error)
        except InputError as error:  # no JSON, say
            yield name, "changed", str(error)
        else:
            hint = "; ask of a place that has some with --at" if any(own.endswith("is empty") for own in lacks) else ""
            yield name, "changed" if lacks else "as known", "; ".join(lacks) + hint


def main(words: list[str]) -> int:
    """Command line: 1 if any has changed, 3 if none has but one is unreachable."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(QUESTIONS)} (default: all)")
    parser.add_argument("--at", default=",".join(map(str, PLACE)), help="a place with images and photos: LON,LAT")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    args = parser.parse_args(words)
    if unknown := [name for name in args.names if name not in QUESTIONS]:
        parser.error(f"{unknown[0]} is none of {', '.join(QUESTIONS)}")
    try:
        lon, lat = map(float, args.at.split(","))
        if not (abs(lon) <= 180 and abs(lat) <= 90):
            raise ValueError
    except ValueError:
        parser.error(f"--at {args.at} is no LON,LAT")
    found: set[str] = set()
    try:
        for name, state, text in check(args.names or list(QUESTIONS), (lon, lat), NetConfig(timeout=20.0, retries=1)):
            found.add(state)
            print(json.dumps({"service": name, "state": state, "text": text}) if args.json else
                  f"{name}: {state}{': ' if text else ''}{visible(text)}", flush=True)  # fmt: skip
    except GeoshardsError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 2
    return 1 if "changed" in found else 3 if "unreachable" in found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
