"""The stream against its peers over the same samples: raw bytes, decoded batches, decoded and augmented batches.

``python benchmarks/stream_race.py [--race raw|decoded|augmented] [--samples N] [--rounds N] [--passes N]
[--peers a,b]`` prints one JSON line of median samples a second of the clock, and a second of processor time of the
process and its loaders. The columns run one after another, the whole row ``--passes`` times, and a ratio is the median
of those of the passes. Every peer runs in a virtual environment of its own, made on the first call under
``GEOSHARDS_CACHE`` (default data/cache) ``/peers``; one that cannot be installed or does not run is left out with the
reason. All read the same image and token bytes: from the shards, or written once in the peer's own format.

raw: one process, samples in random order, the bytes of image and tokens of a batch handed over, unchecked.
decoded: two loader processes, image of 256 px and tokens decoded by the same functions into the same batch.
augmented: the same, with the same crop, turn and colours. ``webdataset-pillow`` is stock webdataset: Pillow, and each
token buffer as a dictionary of arrays, collated as lists.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

#: Peer: what pip installs.
PEERS = {
    "webdataset": ["webdataset"],
    "webdataset-pillow": ["webdataset"],
    "mosaicml-streaming": ["mosaicml-streaming"],
    "litdata": ["litdata"],
    "megatron-energon": ["megatron-energon"],
    "ray.data": ["ray[data]"],
}
#: What the decoding that all share needs.
SHARED = ["torch==2.13.0", "simplejpeg", "Pillow", "safetensors", "pyarrow", "PyYAML", "fsspec", "numpy"]
BATCH, SIZE, WORKERS = 64, 256, 2
#: Seconds that a round lasts at least, and that a column may take.
SHORTEST, LONGEST = 0.5, 400


def view() -> Any:
    """What a batch holds."""
    from trainers.stream.batch import View

    return View(SIZE, osm=("objects", "relations"))


def settings(race: str) -> Any:
    """How samples are varied."""
    from trainers.stream.augment import AugmentSettings

    return AugmentSettings(crop=0.8, rotate=0.5, jitter=0.8) if race == "augmented" else AugmentSettings(enabled=False)


class Collate:
    """Bytes of samples, (rs, osm) each, to the batch that all hand over."""

    def __init__(self, race: str) -> None:
        self.race = race

    def __call__(self, samples: Iterable[tuple[bytes, bytes]]) -> Any:
        import numpy as np

        from schemas.tokens import OsmTokens
        from trainers.stream.augment import TileSample, augment, draw_window
        from trainers.stream.batch import Slot, pack
        from trainers.stream.members.decode import decode_rgb, resize
        from trainers.stream.sample import Cut, cut_each

        how, slots = settings(self.race), []
        for rs, osm in samples:
            seed = np.uint64(np.random.randint(0, 1 << 62))
            tokens = OsmTokens.from_bytes(osm)
            (window, tokens, *_), *_ = cut_each([Cut(draw_window(seed, how), tokens, [], int(seed))])
            image = resize(decode_rgb(rs, "rs.jpg"), SIZE, window)
            sample = augment(TileSample(image, tokens, ()), seed, how)
            slots.append(Slot("k", 0, seed, np.zeros(2), np.zeros(4), np.ones(2), sample))
        return pack(slots, view(), None, 1.0, [])


def endless(loader: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """The batches of one epoch after another."""
    while True:
        yield from loader()


def workers(dataset: Any, collate: Any, **options: Any) -> Iterator[Any]:
    """Batches of a torch dataset by two loader processes that stay."""
    from torch.utils.data import DataLoader

    loader = DataLoader(dataset, collate_fn=collate, num_workers=WORKERS, persistent_workers=True, **options)
    return endless(lambda: loader)


def geoshards(data: Path, race: str, _work: Path) -> Iterator[Any]:
    """This stream."""
    if race == "raw":
        import numpy as np

        from trainers.stream.catalog.index import load_index
        from trainers.stream.members.read import ShardReader
        from trainers.stream.order import Order, places_at

        index = load_index(str(data))
        reader = ShardReader(index, verify="none")  # the others compare bytes with nothing either
        names = [("rs.jpg", "osm.safetensors")] * BATCH
        for epoch in range(10**9):
            order = places_at(np.arange(len(index)), len(index), epoch, Order())
            for first in range(0, len(index), BATCH):
                found = reader.read(order[first : first + BATCH], names)
                yield [(m["rs.jpg"], m["osm.safetensors"]) for m in found]  # type: ignore[call-overload]
    from trainers.stream.order import Place
    from trainers.stream.stream import GeoStream

    place = Place(workers=WORKERS)
    yield from GeoStream(str(data), view(), batch_size=BATCH, augment=settings(race), place=place).batches()


def webdataset(data: Path, race: str, _work: Path) -> Iterator[Any]:
    """Stock webdataset over the shards, shuffled through a buffer; the decoding that all share."""
    import webdataset as wds

    shards = sorted(str(p) for p in (data / "shards").glob("*.tar"))
    dataset = wds.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(1000)
    pairs = dataset.to_tuple("rs.jpg", "osm.safetensors")
    if race == "raw":
        return endless(lambda: pairs.batched(BATCH, collation_fn=list))
    return workers(pairs.batched(BATCH, collation_fn=Collate(race)), None, batch_size=None)


def webdataset_pillow(data: Path, race: str, _work: Path) -> Iterator[Any]:
    """Stock webdataset with its own decoder and collation; tokens as safetensors reads them."""
    import safetensors.numpy
    import torch
    import webdataset as wds

    def collate(samples: list[Any]) -> Any:
        return torch.stack([torch.from_numpy(s[0].copy()).permute(2, 0, 1) for s in samples]), [s[1] for s in samples]

    if race != "decoded":
        raise SystemExit("error: it is no column of this race")
    shards = sorted(str(p) for p in (data / "shards").glob("*.tar"))
    dataset = wds.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(1000)
    pairs = dataset.decode("rgb8", wds.handle_extension("osm.safetensors", safetensors.numpy.load))
    batches = pairs.to_tuple("rs.jpg", "osm.safetensors").batched(BATCH, collation_fn=collate)
    return workers(batches, unchanged, batch_size=None)


def unchanged(batch: Any) -> Any:
    """A batch as it is: torch would make a tensor, and a file descriptor, of each of its arrays."""
    return batch


def samples_of(data: Path) -> Iterator[tuple[bytes, bytes]]:
    """(rs, osm) of every sample, in the order of the shards."""
    from trainers.stream.catalog.index import load_index
    from trainers.stream.members.read import ShardReader

    index = load_index(str(data))
    reader = ShardReader(index)
    for i in range(len(index)):
        members = reader.one(i, ["rs.jpg", "osm.safetensors"])
        yield bytes(members["rs.jpg"]), bytes(members["osm.safetensors"])


def mosaicml_streaming(data: Path, race: str, work: Path) -> Iterator[Any]:
    """MDS shards of 64 MB, its default shuffle."""
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    if not (work / "index.json").exists():
        with MDSWriter(out=str(work), columns={"rs": "bytes", "osm": "bytes"}) as out:
            for rs, osm in samples_of(data):
                out.write({"rs": rs, "osm": osm})
    clean_stale_shared_memory()
    dataset = StreamingDataset(local=str(work), shuffle=True, batch_size=BATCH)
    if race == "raw":
        return endless(lambda: batched((s["rs"], s["osm"]) for s in dataset))
    collate = Collate(race)
    return workers(dataset, Picked(collate, "rs", "osm"), batch_size=BATCH)


def litdata(data: Path, race: str, work: Path) -> Iterator[Any]:
    """Chunks of 64 MB, shuffled."""
    from litdata import StreamingDataLoader, StreamingDataset, optimize

    if not (work / "index.json").exists():
        items = list(samples_of(data))
        optimize(Items(items), list(range(len(items))), str(work), chunk_bytes="64MB", num_workers=1)
    dataset = StreamingDataset(str(work), shuffle=True)
    if race == "raw":
        return endless(lambda: batched((s["rs"], s["osm"]) for s in dataset))
    loader = StreamingDataLoader(
        dataset, batch_size=BATCH, num_workers=WORKERS, collate_fn=Picked(Collate(race), "rs", "osm"),
        persistent_workers=True,
    )  # fmt: skip
    return endless(lambda: loader)


def megatron_energon(data: Path, race: str, work: Path) -> Iterator[Any]:
    """The shards as a crude dataset, shuffled through a buffer."""
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        Sample,
        WorkerConfig,
        basic_sample_keys,
        get_loader,
        get_train_dataset,
        stateless,
    )
    from megatron.energon.flavors.webdataset import BaseWebdatasetFactory

    if not (work / ".nv-meta").exists():
        for shard in (data / "shards").glob("*.tar"):
            (work / shard.name).symlink_to(shard.resolve())
        BaseWebdatasetFactory.prepare_dataset(
            work, sorted(p.name for p in work.glob("*.tar")), split_parts_ratio=[("train", 1.0)], workers=1
        )
        kind = "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
        (work / ".nv-meta" / "dataset.yaml").write_text(kind)

    @dataclass
    class Pair(Sample):  # type: ignore[misc,valid-type]  # of another environment
        rs: Any
        osm: Any

    @stateless
    def cook(sample: Any) -> Any:
        return Pair(**basic_sample_keys(sample), rs=sample["rs.jpg"], osm=sample["osm.safetensors"])

    class Encoder(DefaultTaskEncoder):  # type: ignore[misc,valid-type]  # of another environment
        decoder = None
        cookers = [Cooker(cook)]  # noqa: RUF012

        def batch(self, samples: list[Any]) -> Any:
            pairs = [(s.rs, s.osm) for s in samples]
            return pairs if race == "raw" else Collate(race)(pairs)

        def encode_batch(self, batch: Any) -> Any:
            return batch

    config = WorkerConfig(rank=0, world_size=1, num_workers=0 if race == "raw" else WORKERS)
    dataset = get_train_dataset(
        work, batch_size=BATCH, shuffle_buffer_size=1000, max_samples_per_sequence=100, worker_config=config,
        task_encoder=Encoder(),
    )  # fmt: skip
    return iter(get_loader(dataset))


def ray_data(data: Path, race: str, _work: Path) -> Iterator[Any]:
    """``read_webdataset`` over the shards, shuffled in the consumer."""
    import ray

    os.environ.setdefault("RAY_AUTH_TOKEN", token_hex(32))  # Ray would make one itself, and leave it in the home
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.read_webdataset(str(data / "shards"), decoder=False, shuffle="files")
    if race != "raw":
        raise SystemExit("error: its batches are columns of equal arrays; tokens of unequal length do not fit")

    def epoch() -> Iterator[Any]:
        for batch in dataset.iter_batches(batch_size=BATCH, local_shuffle_buffer_size=1000):
            yield list(zip(batch["rs.jpg"], batch["osm.safetensors"], strict=True))

    return endless(epoch)


class Items:
    """Sample number to what litdata stores."""

    def __init__(self, items: list[tuple[bytes, bytes]]) -> None:
        self.items = items

    def __call__(self, i: int) -> dict[str, bytes]:
        return dict(zip(("rs", "osm"), self.items[i], strict=True))


class Picked:
    """Dictionaries to tuples, then to a batch."""

    def __init__(self, collate: Callable[[Any], Any], *names: str) -> None:
        self.collate, self.names = collate, names

    def __call__(self, samples: list[Any]) -> Any:
        return self.collate([tuple(s[n] for n in self.names) for s in samples])


def batched(samples: Iterable[Any]) -> Iterator[list[Any]]:
    """Lists of BATCH samples; the last may be shorter."""
    held: list[Any] = []
    for sample in samples:
        held.append(sample)
        if len(held) == BATCH:
            yield held
            held = []
    if held:
        yield held


def size_of(batch: Any) -> int:
    """Samples of a batch; raw ones are touched."""
    if isinstance(batch, list):
        if sum(len(part) for pair in batch for part in pair) == 0:
            raise SystemExit("error: a batch without bytes")
        return len(batch)
    return len(batch[0]) if isinstance(batch, tuple) else len(batch.key)


def cpu_seconds() -> float:
    """Processor time of this process and its loader processes: those of its session, which it leads."""
    ticks, session = 0, os.getsid(0)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and stat.parent.name != str(os.getpid()):
                ticks += sum(int(v) for v in fields[11:15])  # user and system time, and that of ended children
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def column(name: str, data: Path, race: str, work: Path, samples: int, rounds: int) -> None:
    """Run one column in this process and print its rates."""
    import torch

    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    function = {"ray.data": ray_data}.get(name) or globals()[name.replace("-", "_")]
    batches = iter(function(data, race, work))
    rates = []
    for round_ in range(rounds + 1):
        begin, begin_cpu, seen = time.perf_counter(), cpu_seconds(), 0
        while seen < samples or time.perf_counter() - begin < SHORTEST:
            seen += size_of(next(batches))
        if round_:  # the first warms the page cache and starts the processes
            rates.append((seen / (time.perf_counter() - begin), seen / (cpu_seconds() - begin_cpu)))
    print("RATES " + json.dumps(rates), flush=True)
    os._exit(0)  # some loaders never end by themselves


def environment(name: str, cache: Path) -> Path:
    """The Python of a peer's own virtual environment."""
    folder = cache / "peers" / PEERS[name][0].replace("[", "").replace("]", "")
    if not (folder / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        words = [str(folder / "bin" / "pip"), "install", "-q", *SHARED, *PEERS[name]]
        subprocess.run(words, check=True, capture_output=True, timeout=1800)
        (folder / ".ready").touch()
    return folder / "bin" / "python"


def finish(words: list[str], work: Path) -> tuple[str, str]:
    """Standard output and error of a command; whatever loader processes it leaves behind are ended."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "out").open("w") as out, (work / "err").open("w") as err:
        process = subprocess.Popen(words, stdout=out, stderr=err, start_new_session=True)
        try:
            process.wait(timeout=LONGEST)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return (work / "out").read_text(), (work / "err").read_text()


def run(name: str, options: argparse.Namespace, data: Path, work: Path, cache: Path) -> list[list[float]] | str:
    """Rates of one column, by the clock and by processor time, or why there are none."""
    try:
        python = Path(sys.executable) if name == "geoshards" else environment(name, cache)
        words = [str(python), __file__, "--column", name, "--race", options.race, "--keep", str(data)]
        words += ["--work", str(work / name), "--samples", str(options.samples), "--rounds", str(options.rounds)]
        said, complaint = finish(words, work)
        lines = [line for line in said.splitlines() if line.startswith("RATES ")]
        if not lines:
            return (complaint.strip().splitlines() or ["it printed nothing"])[-1][:200]
        return list(json.loads(lines[-1][6:]))
    except (subprocess.SubprocessError, OSError) as error:
        return str(error)[:200]


def median(rates: list[list[list[float]]], which: int) -> int:
    """Median rate over all passes and rounds."""
    return round(statistics.median(rate[which] for run_ in rates for rate in run_))


def ratio(ours: list[list[list[float]]], theirs: list[list[list[float]]], which: int) -> float:
    """Median over the passes of the ratio of their medians: what slows a pass slows both."""
    pairs = [[statistics.median(r[which] for r in run_) for run_ in pair] for pair in zip(ours, theirs, strict=True)]
    return round(statistics.median(a / b for a, b in pairs), 2)


def main() -> None:
    """Run the race and print its line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--race", choices=("raw", "decoded", "augmented"), default="raw")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--column", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.column:
        column(options.column, options.keep, options.race, options.work, options.samples, options.rounds)
    from storage.urls import cache_folder
    from tests.trainers.synthetic import SyntheticSettings, write_dataset

    cache, load = cache_folder().absolute(), round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as folder:
        work = (options.keep or Path(folder)).absolute()
        data = work / "data"
        if not (data / "dataset.json").exists():
            synthetic = SyntheticSettings(
                samples=options.samples, size=SIZE, photos=0, objects=30, samples_per_shard=128
            )
            write_dataset(data, synthetic)
        peers = options.peers.split(",") if options.peers else []
        rates: dict[str, list[list[list[float]]]] = {name: [] for name in ("geoshards", *peers)}
        skipped: dict[str, str] = {}
        for _ in range(options.passes):
            for name in [n for n in rates if n not in skipped]:
                found = run(name, options, data, work, cache)
                if isinstance(found, str):
                    skipped[name] = found
                else:
                    rates[name].append(found)
    if "geoshards" in skipped:
        raise SystemExit(f"error: {skipped['geoshards']}")
    raced = {name: found for name, found in rates.items() if name not in skipped}
    ours = raced["geoshards"]
    print(json.dumps({
        "race": f"stream_{options.race}", "samples": options.samples, "rounds": options.rounds,
        "passes": options.passes, "batch": BATCH, "workers": 0 if options.race == "raw" else WORKERS,
        "load_before": load,
        "results": {
            name: {"samples_per_second": median(found, 0), "samples_per_cpu_second": median(found, 1)}
            for name, found in raced.items()
        },
        "ours_over": {n: ratio(ours, found, 0) for n, found in raced.items() if n != "geoshards"},
        "ours_over_by_cpu": {n: ratio(ours, found, 1) for n, found in raced.items() if n != "geoshards"},
        "skipped": skipped,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
