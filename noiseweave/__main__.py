"""``python -m noiseweave``."""

from noiseweave.jobs.cli import command

raise SystemExit(command())
