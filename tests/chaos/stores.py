"""What goes wrong in an object store: answers that fail, credentials that expire, several writers, readers."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from tests.buckets import PASSING, credentials, running
from tests.chaos.kinds import UNFINISHED
from tests.chaos.world import CLEAR, ZOOMS, Files, Process, Round, die_with_parent, differing


@contextmanager
def server(faults: Path) -> Iterator[str]:
    """The address of a server in a process of its own, whose faults are read from a folder: a file a bucket."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        die_with_parent()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        counts, lock = Counter[str](), threading.Lock()

        def fault(_method: str, path: str) -> str:
            bucket = urlsplit(path).path.split("/")[1]
            try:
                plan = json.loads((faults / bucket).read_text())
            except (OSError, ValueError):
                return ""
            with lock:
                counts[bucket] += 1
                number = counts[bucket]
            if number > plan.get("expires", 1 << 60):
                return "expired"
            rng = random.Random(f"{plan['seed']} {number}")
            return str(rng.choice(plan["kinds"])) if rng.random() < plan["share"] else ""

        with running(fault) as address:
            os.write(writing, address.encode())
            os.close(writing)
            signal.pause()
        os._exit(0)
    os.close(writing)
    try:
        yield os.read(reading, 100).decode()
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


class _Bucket:
    """A round's own bucket."""

    def __init__(self, case: Round) -> None:
        self.case, self.name = case, f"b{case.mark}"
        self.url = f"s3://{self.name}/d"
        from botocore.session import get_session  # a second, which rounds without a store need not wait for

        facts = {name.lower(): value for name, value in credentials(case.world.store).items()}
        self._client = get_session().create_client(
            "s3", region_name=facts["aws_default_region"], endpoint_url=facts["aws_endpoint_url"],
            aws_access_key_id=facts["aws_access_key_id"], aws_secret_access_key=facts["aws_secret_access_key"],
        )  # fmt: skip
        self._client.create_bucket(Bucket=self.name)

    def fail(self, **plan: object) -> None:
        """From now on so; without arguments no more."""
        path = self.case.world.faults / self.name
        if plan:
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps({"seed": self.case.number, "share": 0.0, "kinds": PASSING} | plan))
            fresh.replace(path)
        else:
            path.unlink(missing_ok=True)

    def files(self) -> Files:
        """All of the dataset there but the timings; what is hidden too."""
        found = {}
        for entry in self._client.list_objects_v2(Bucket=self.name).get("Contents", []):
            name = entry["Key"].removeprefix("d/")
            if "stages" not in name and not name.startswith("MANIFEST"):
                data = self._client.get_object(Bucket=self.name, Key=entry["Key"])["Body"].read()
                found[name] = len(data), sha256(data).hexdigest()
        return found

    def build(self, zoom: int) -> Process:
        """A build into it."""
        return self.case.build(zoom, self.url, environment=credentials(self.case.world.store))

    def ask(self, *words: str) -> Process:
        """A command that reads it."""
        return self.case.start([words[0], self.url, *words[1:]], environment=credentials(self.case.world.store))

    def differs(self, zoom: int) -> int:
        """Bytes that are not as they should be after a build."""
        return differing(self.case.world.right[str(zoom)], self.files())

    def close(self) -> None:
        """What is left there is a finding."""
        self.fail()
        for name, (size, _) in self.files().items():
            if "/." in f"/{name}":
                self.case.left += size
                self.case.find(f"left behind: {self.url}/{name}")


#: What a build says of a store that does not answer.
_STORE = ("no answer after",)


def store(case: Round) -> None:
    """A build into a store that fails, is slow, tears answers and hangs up, and a check of what it wrote there."""
    bucket, zoom = _Bucket(case), case.rng.choice(ZOOMS)
    share = case.rng.choice([0.02, 0.1, 0.3])
    kinds = case.rng.sample(PASSING, case.rng.randint(1, len(PASSING)))
    bucket.fail(share=share, kinds=kinds)
    built = bucket.build(zoom)
    built.wait()
    bucket.fail()
    case.judge(built, lambda: bucket.differs(zoom), clear=(*CLEAR, *_STORE))
    if built.status == 0:
        bucket.fail(share=share, kinds=kinds)
        case.judge(bucket.ask("verify", "--quiet", "--workers=1"), clear=_STORE)
        bucket.fail()
    case.judge(bucket.build(zoom), lambda: bucket.differs(zoom), again=True)
    bucket.close()


def expiry(case: Round) -> None:
    """Credentials that expire while a build writes, or while somebody reads; then they are new."""
    bucket, zoom, rng = _Bucket(case), case.rng.choice(ZOOMS), case.rng
    clear = ("credentials",)
    bucket.fail(expires=int(rng.random() * 120))
    said = [bucket.build(zoom)]
    said[0].wait()
    if said[0].status == 0:
        said += [bucket.ask("verify", "--quiet", "--workers=1"), bucket.ask("query", "SELECT count(*) FROM samples")]
        for process in said[1:]:
            process.wait()
    bucket.fail()
    for process in said:
        case.judge(process, clear=clear)
        if process.status == 1 and bucket.url not in process.errors:
            case.find(f"{process.words[0]}: the line does not name {bucket.url}: {process.errors!r}")
    case.judge(bucket.build(zoom), lambda: bucket.differs(zoom), again=True)
    bucket.close()


def bucket(case: Round) -> None:
    """Two or three builds into one bucket at once, some killed, while it is read."""
    there, rng = _Bucket(case), case.rng
    zoom = rng.choice(ZOOMS)
    processes = [there.build(zoom) for _ in range(rng.randint(2, 3))]
    begin, kills = time.monotonic(), {n: rng.random() * 3 * case.world.seconds for n in range(len(processes) - 1)}
    asked = 0
    while any(p.poll() is None for p in processes):
        for n in [n for n, after in kills.items() if time.monotonic() > begin + after]:
            if rng.random() < 0.5:
                processes[n].kill()
            del kills[n]
        if asked < 6 and case.world.seconds * asked < time.monotonic() - begin:
            asked += 1
            reader = there.ask("query", "SELECT count(*) AS n FROM samples", "--json")
            if case.judge(reader, clear=UNFINISHED) == "right":
                counted = json.loads(reader.out)[0]["n"]
                if counted != case.world.samples[str(zoom)]:
                    case.find(f"query counted {counted} of {case.world.samples[str(zoom)]} samples")
        time.sleep(0.005)
    ends = [case.judge(p, lambda: there.differs(zoom)) for p in processes]
    if set(ends) == {"refused"}:
        case.find("of builds into one bucket none wrote")
    case.judge(there.build(zoom), lambda: there.differs(zoom), again=True)
    there.close()
