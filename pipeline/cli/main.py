"""The ``geoshards`` command: subcommands come from entry points, so that no room imports another to offer its own.

What this module needs is imported as it is called: an interrupt at any moment of the start is then one line.
"""

from __future__ import annotations

import os
import signal
import sys

_INTERRUPTED = "error: interrupted; run the same command again to go on"
#: Address space (`ulimit -v`) below which libraries crash, hang or end the process with words of their own.
_LEAST = 1_000_000_000


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; exit status 0 done, 1 failed, 2 wrong call. The reason is the last line on standard error."""
    import argparse
    from importlib.metadata import entry_points, version

    from schemas.command import GROUP, Command
    from schemas.errors import ConfigError, GeoshardsError, is_short, shortage
    from storage.text import visible

    arguments = sys.argv[1:] if argv is None else argv
    if arguments == ["--version"]:
        print(f"geoshards {version('geoshards')}")
        return 0
    points = {p.name: p for p in entry_points(group=GROUP)}
    try:
        for argument in arguments:
            if not _is_text(argument):
                raise ConfigError(f"{visible(argument)!r} is no UTF-8; rename the file, or mend the terminal's locale")
        if not arguments or arguments[0] in ("-h", "--help"):
            helps = {name: point.load().help for name, point in sorted(points.items())}
            print(_overview(helps))
            return 0 if arguments else 2
        name = arguments[0]
        if name not in points:
            raise ConfigError(f"unknown command {name!r}; {_hint(name, list(points))}")
        command: Command = points[name].load()
        parser = argparse.ArgumentParser(
            f"geoshards {name}", description=command.help, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("--quiet", action="store_true", help="no progress and no table")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        command.configure(parser)
        _heed_signals()
        # Settings may stand before and behind options.
        return command.run(parser.parse_intermixed_args([_no_option(a) for a in arguments[1:]]))
    except GeoshardsError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except ModuleNotFoundError as error:  # without the extra: what trains and encodes
        if error.name != "torch":
            raise
        print(f"error: geoshards {name} needs torch; pip install 'geoshards[train]' brings it", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `| head` closed the pipe: nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        print("error: there is not enough memory; give fewer workers (workers=1), or a smaller region", file=sys.stderr)
        return 1
    except Exception as error:
        if is_short(error) or _is_pressed():
            print(f"error: {visible(str(shortage(error)))}", file=sys.stderr)
        elif isinstance(error, OSError):
            print(f"error: {visible(str(error))}; check the path and the space left", file=sys.stderr)
        else:
            raise
        return 1


def _is_text(argument: str) -> bool:
    """Whether it was UTF-8: of other bytes Python makes halves of pairs, which no library takes."""
    return not any(0xD800 <= ord(c) < 0xE000 for c in argument)


def _hint(name: str, names: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]}?" if near else f"commands: {', '.join(sorted(names))}"


def _no_option(argument: str) -> str:
    """A box that begins in the west, -83,42,-82,43, so that argparse takes it for a value; flags strip the space."""
    import re

    return f" {argument}" if re.match(r"-[\d.].*,", argument) else argument


def _heed_signals() -> None:
    """What runs is told of Ctrl-C as by Python; SIGTERM stops as Ctrl-C does, so that locks are released."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt


def _leave(*_: object) -> None:
    """Libraries make an error of their own, or nothing, of an interrupt while they are imported."""
    os.write(2, f"{_INTERRUPTED}\n".encode())
    os._exit(1)


def _overview(helps: dict[str, str]) -> str:
    width = max((len(name) for name in helps), default=0)
    lines = [f"  {name.ljust(width)}  {text.splitlines()[0]}" for name, text in helps.items()]
    return "\n".join(["usage: geoshards COMMAND … | --version  (geoshards COMMAND --help explains one)", "", *lines])


def _limit() -> int | None:
    """Bytes of address space that this process may have, if that is limited."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _is_pressed() -> bool:
    """Whether this process has come near its limit. Libraries then fail in any way: a type that is none, a result that
    is not set, a module that is half there."""
    limit = _limit()
    if limit is None:
        return False
    try:
        with open("/proc/self/status") as file:
            peak = next((int(line.split()[1]) << 10 for line in file if line.startswith("VmPeak")), 0)
    except OSError:  # another system's
        return False
    return peak > limit * 3 // 4


def entry() -> None:
    """The console script. Leaves at once: Arrow's threads may abort an interpreter that ends just after a read."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored: started with nohup or &
        signal.signal(signal.SIGINT, _leave)
    limit = _limit()
    if limit is not None:
        if limit < _LEAST:
            print(
                f"error: ulimit -v allows {limit / 1e6:.0f} MB of address space, and {_LEAST / 1e6:.0f} are the least; "
                "raise it (ulimit -v unlimited)", file=sys.stderr,
            )  # fmt: skip
            os._exit(1)
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # it takes some for each, and ends the process without
    status = 1
    try:
        status = main()
    except SystemExit as error:  # argparse
        status = error.code if isinstance(error.code, int) else 2
    except KeyboardInterrupt:
        print(_INTERRUPTED, file=sys.stderr)
    except MemoryError:  # before there was anybody to say it
        print("error: there is not enough memory; raise the limit (ulimit -v)", file=sys.stderr)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                os.write(2, f"error: the output cannot be written: {error.strerror}\n".encode())
                status = status or 1
    os._exit(status)


if __name__ == "__main__":
    entry()
