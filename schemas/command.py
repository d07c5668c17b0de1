"""What a subcommand of ``geoshards`` is: rooms offer theirs through the entry point group ``geoshards.commands``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

#: Entry point group of subcommands.
GROUP = "geoshards.commands"


@dataclass(frozen=True)
class Command:
    """One subcommand."""

    help: str  # one line
    configure: Callable[[argparse.ArgumentParser], None]  # adds the arguments
    run: Callable[[argparse.Namespace], int]  # returns the exit status
