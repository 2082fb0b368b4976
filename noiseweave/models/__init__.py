"""The small weights that ship with the package."""

from pathlib import Path

SHIPPED = Path(__file__).parent


def resolve(name: str) -> str:
    """A shipped model's name (``digits-ddpm``, ``taesd``) -> its folder; any other name comes back as it is."""
    folder = SHIPPED / name
    shipped = "/" not in name and any((folder / n).is_file() for n in ("model_index.json", "config.json"))
    return str(folder) if shipped else name


def shipped() -> list[str]:
    """Names of the shipped models that draw pictures."""
    return sorted(folder.parent.name for folder in SHIPPED.glob("*/model_index.json"))
