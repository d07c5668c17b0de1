"""`make check-services` against the mirror: answers as they are, of another shape, and none; what is needed is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.driver.services import check, main
from pipeline.mirror import geofabrik, stac
from pipeline.mirror.messages import Request, Response
from pipeline.net.client import Client
from pipeline.net.shape import lacking
from pipeline.regions.index import NEEDS as INDEX_NEEDS
from pipeline.regions.index import parse_index
from pipeline.streetview.record import Drops
from pipeline.streetview.services import kartaview, mapillary, panoramax
from schemas.errors import InputError
from tests.grounds import TileArea
from tests.imagery.scenes import LAT, LON, write_granule, write_manifest
from tests.mirror import faults
from tests.mirror.server import Mirror
from tests.net.sources import publish
from tests.streetview.conftest import SERVICES, Open
from tests.streetview.makers import EAST, FAST, NORTH, SOUTH, WEST, town

EVERY = {**SERVICES, "geofabrik": geofabrik.respond, "earth-search": stac.respond, "planetary-computer": stac.respond}
TOWN = ((WEST + EAST) / 2, (SOUTH + NORTH) / 2)
NEEDS = {"panoramax": panoramax.NEEDS, "kartaview": kartaview.NEEDS, "mapillary": mapillary.NEEDS}


def without(path: str) -> faults.Fault:
    """Answers whose value at a path of `pipeline.net.shape` is gone everywhere."""

    def cut(node: Any, names: list[str]) -> None:
        plain = names[0].removesuffix("[]")
        for own in node if isinstance(node, list) else [node]:
            if isinstance(own, dict) and plain in own:
                if names[1:]:
                    cut(own[plain], names[1:])
                else:
                    del own[plain]

    def fault(request: Request, answer: Response) -> Response:
        try:
            document = json.loads(answer.body)  # type: ignore[arg-type]
        except (ValueError, TypeError):
            return answer
        if path.startswith("data[]") and "data" not in document:  # entities by their ids
            for entity in document.values():
                cut(entity, path.split(".")[1:])
        cut(document, path.split("."))
        return Response(answer.status, json.dumps(document).encode(), answer.type)

    return fault


@pytest.fixture
def services(tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """All of them."""
    root = tmp_path / "all"
    for name in SERVICES:
        town(root / name)
    publish(root, b"x", "europe/x-latest.osm.pbf")
    (root / "geofabrik/regions.json").write_text(json.dumps({"x": {"iso": ["XX"], "bbox": [9, 47, 10, 48]}}))
    for name in ("earth-search", "planetary-computer"):
        row = write_granule(root / name, "a", "2024-06-01T10:00:00Z", preset=name, side=60)
        write_manifest(root / name, [row], signed=False)
    with Mirror(root, services=EVERY) as server:
        monkeypatch.setenv("GEOSHARDS_MIRROR", server.url)
        yield server


@pytest.mark.parametrize("name", ["panoramax", "kartaview", "mapillary"])
def test_photo_services_are_as_known_until_a_key_goes_and_the_key_is_named(services: Mirror, name: str) -> None:
    assert [s for _, s, _ in check([name], TOWN, FAST)] == ["as known"]
    path = next(p for p in NEEDS[name] if p.endswith(".id"))
    services.faults.append(without(path))
    ((_, state, text),) = check([name], TOWN, FAST)
    assert state == "changed"
    assert f"{path} is gone" in text


@pytest.mark.parametrize("name", ["earth-search", "planetary-computer"])
def test_stac_services_are_as_known_until_a_key_goes(services: Mirror, name: str) -> None:
    assert [s for _, s, _ in check([name], (LON, LAT), FAST)] == ["as known"]
    services.faults.append(without("features[].properties.s2:processing_baseline"))
    ((_, state, text),) = check([name], (LON, LAT), FAST)
    assert (state, text) == ("changed", "features[].properties.s2:processing_baseline is gone")


def test_geofabriks_index_is_as_known_until_a_key_goes_that_the_code_reads(services: Mirror) -> None:
    def regions() -> str:
        index = Client(FAST).get_json(f"{services.url}/geofabrik/index-v1.json")
        try:
            return repr(parse_index(index, f"{services.url}/geofabrik", "the index").regions)
        except InputError as error:
            return str(error)

    assert [s for _, s, _ in check(["geofabrik"], TOWN, FAST)] == ["as known"]
    whole = regions()
    for path in INDEX_NEEDS:
        services.faults[:] = [without(path)]
        ((_, state, text),) = check(["geofabrik"], TOWN, FAST)
        assert (state, text) == ("changed", f"{path} is gone")
        assert regions() != whole, path


def test_a_service_that_does_not_answer_is_told_from_one_that_has_changed(
    services: Mirror, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    services.faults.append(lambda request, answer: Response(503, b"not now"))
    assert [s for _, s, _ in check(["panoramax"], TOWN, FAST)] == ["unreachable"]
    services.faults[:] = [lambda request, answer: Response(200, b"<!doctype html>", "text/html")]
    assert [s for _, s, _ in check(["panoramax"], TOWN, FAST)] == ["changed"]
    services.faults.clear()
    monkeypatch.delenv(mapillary.TOKEN)
    assert [s for _, s, _ in check(["mapillary"], TOWN, FAST)] == ["not asked"]
    assert main(["earth-search", "--at", f"{LON},{LAT}"]) == 0
    assert capsys.readouterr().out == "earth-search: as known\n"
    services.faults.append(without("features[].assets.red"))
    assert main(["earth-search", "--at", f"{LON},{LAT}"]) == 1
    assert capsys.readouterr().out == "earth-search: changed: features[].assets.red.href is gone\n"


def test_a_value_of_another_kind_is_named() -> None:
    document = {"a": [{"b": True, "c": "x"}], "d": None}
    needs = {"a[].b": "number", "a[].c": "text", "d": "list", "e.f": "text"}
    assert lacking(document, needs) == ["a[].b is true or false, not number", "d is null, not list", "e.f is gone"]


@pytest.mark.parametrize(("name", "path"), [(name, path) for name, needs in NEEDS.items() for path in needs])
def test_what_is_needed_is_what_the_code_reads(
    name: str, path: str, open_service: Open, area: TileArea, mirror: Mirror, tmp_path: Path
) -> None:
    """Without it the photos are others, are dropped, or the answer is refused."""

    def listed(renew: bool) -> Any:
        drops = Drops()
        try:
            source = open_service(name, renew=renew)
            return source.list(area, drops).to_pylist(), drops.rows()
        except Exception as error:  # noqa: BLE001
            return repr(error)

    whole = listed(False)
    mirror.faults.append(without(path))
    assert listed(True) != whole
