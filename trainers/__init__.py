"""What consumes shards: the stream, the models, the training engine and their entry points."""

from pathlib import Path

#: Repository root, where ``data/demo``, the environment ``.venv`` and the entry points lie.
ROOT = Path(__file__).resolve().parents[1]
