"""One thin module a job: a config dataclass and ``run(config)``."""
