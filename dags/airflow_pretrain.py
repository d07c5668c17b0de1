"""The graph ``pretrain`` (dags/graphs.py) for Airflow."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Airflow knows this folder alone

from dags.scheduler import dag_of

pretrain = dag_of("pretrain")
