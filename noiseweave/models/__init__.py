"""The small weights that ship with the package."""

from pathlib import Path

SHIPPED = Path(__file__).parent


def resolve(name: str) -> str:
    """A shipped model's name (``digits-ddpm``) -> its folder; any other name comes back as it is."""
    folder = SHIPPED / name
    shipped = "/" not in name and (folder / "model_index.json").is_file()
    return str(folder) if shipped else name
