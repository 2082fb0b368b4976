"""``python -m noiseweave``."""

from noiseweave.jobs.cli import main

raise SystemExit(main())
