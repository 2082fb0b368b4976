"""A job's command in the test's own process: all of its flow in this process, or through Ray."""

from noiseweave.jobs import cli

CPU = ("--cluster.gpus_per_worker", "0")
DIGITS = ("--model.name", "digits-ddpm")
"""The model that ships; what comes after it on the line may name another."""


def inline(job: str, *arguments: object) -> int:
    """The exit code of a job without Ray; the arguments come last, so they may say otherwise."""
    return cli.main([*job.split(), "--cluster.address", "inline", *CPU, *map(str, arguments)])


def on_ray(job: str, *arguments: object) -> int:
    """The exit code of a job on the Ray that runs (the fixture ``ray_session``), whatever its config file says."""
    return cli.main([*job.split(), *CPU, *map(str, arguments), "--cluster.address", "auto"])


def error_line(error: str) -> str:
    """The one line that a refused command wrote to standard error, after those that showed how far it was."""
    (line,) = (line for line in error.splitlines() if " units  " not in line)
    assert line.startswith("error: ")
    return line
