"""The ``geoshards`` command: subcommands come from entry points, so that no room imports another to offer its own."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import signal
import sys
from importlib.metadata import entry_points, version

from pipeline.catalog.text import visible
from schemas.command import GROUP, Command
from schemas.errors import ConfigError, GeoshardsError


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; exit status 0 done, 1 failed, 2 wrong call. The reason is the last line on standard error."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments == ["--version"]:
        print(f"geoshards {version('geoshards')}")
        return 0
    points = {p.name: p for p in entry_points(group=GROUP)}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview({name: point.load() for name, point in sorted(points.items())}))
        return 0 if arguments else 2
    name = arguments[0]
    if name not in points:
        near = difflib.get_close_matches(name, list(points), 1)
        hint = f"did you mean {near[0]}?" if near else f"commands: {', '.join(sorted(points))}"
        print(f"error: unknown command {name!r}; {hint}", file=sys.stderr)
        return 2
    command: Command = points[name].load()
    parser = argparse.ArgumentParser(
        f"geoshards {name}", description=command.help, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quiet", action="store_true", help="no progress and no table")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    command.configure(parser)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        # Settings may stand before and behind options.
        return command.run(parser.parse_intermixed_args([_no_option(a) for a in arguments[1:]]))
    except GeoshardsError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # `| head` closed the pipe: nothing is wrong
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"error: {visible(str(error))}; check the path and the space left", file=sys.stderr)
        return 1
    except MemoryError:
        print("error: there is not enough memory; give fewer workers (workers=1), or a smaller region", file=sys.stderr)
        return 1


def _no_option(argument: str) -> str:
    """A box that begins in the west, -83,42,-82,43, so that argparse takes it for a value; flags strip the space."""
    return f" {argument}" if re.match(r"-[\d.].*,", argument) else argument


def _terminate(*_: object) -> None:
    """SIGTERM stops as Ctrl-C does, so that locks are released."""
    raise KeyboardInterrupt


def _overview(commands: dict[str, Command]) -> str:
    width = max((len(name) for name in commands), default=0)
    lines = [f"  {name.ljust(width)}  {command.help.splitlines()[0]}" for name, command in commands.items()]
    return "\n".join(["usage: geoshards COMMAND … | --version  (geoshards COMMAND --help explains one)", "", *lines])


def entry() -> None:
    """The console script. Leaves at once: Arrow's threads may abort an interpreter that ends just after a read."""
    status = 1
    try:
        status = main()
    except SystemExit as error:  # argparse
        status = error.code if isinstance(error.code, int) else 2
    except KeyboardInterrupt:  # at any moment, while modules are loaded too
        print("error: interrupted; run the same command again to go on", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    entry()
