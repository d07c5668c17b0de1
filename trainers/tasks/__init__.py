"""The trainers by name: what the engine needs to know of each model."""

from trainers.tasks.gair import GAIR
from trainers.tasks.geolink import GEOLINK

TASKS = {task.name: task for task in (GEOLINK, GAIR)}
