"""The working directory that travels to a cluster: what of it goes along, and what stays at home."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import noiseweave

LIMIT = 100 << 20
"""Bytes of a package; Ray's job server refuses more."""


LEFT_OUT = (
    ".git/",
    ".venv/",
    "venv/",
    "__pycache__/",
    "*.pyc",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".ipynb_checkpoints/",
    "node_modules/",
    ".DS_Store",
    "*.egg-info/",
    "*.tar",
    "/data/",
    "/out/",
    "/output/",
    "/outputs/",
    "/runs/",
    "/build/",
    "/dist/",
)
"""What stays at home, besides what .gitignore and .rayignore name; patterns as in .gitignore."""
SECRETS = (
    ".env",
    ".env.*",
    ".netrc",
    ".git-credentials",
    ".pypirc",
    ".npmrc",
    ".ssh/",
    ".aws/",
    ".azure/",
    ".gnupg/",
    ".kube/",
    ".docker/",
    "gcloud/",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "credentials",
    "credentials.json",
    "*service_account*.json",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
)
"""Names of files that hold passwords and keys, as a rule: they stay as well, and are named."""
IGNORES = (".gitignore", ".rayignore")


def files_of(folder: str) -> list[tuple[str, int]]:
    """(relative path, bytes) of what travels, sorted: all but what is left out, and links that lead elsewhere."""
    root = os.path.realpath(folder)
    found = []
    for path, folders, names in os.walk(root):
        keep = _rules(root, path)
        folders[:] = sorted(name for name in folders if keep(os.path.join(path, name) + "/"))
        for name in sorted(names):
            whole = os.path.join(path, name)
            inside = os.path.realpath(whole).startswith(root + os.sep)
            # the rules stay here: in the package Ray would apply them to what is added to it as well
            if inside and name not in IGNORES and os.path.isfile(whole) and keep(whole):
                found.append((os.path.relpath(whole, root), os.path.getsize(whole)))
    return sorted(found)


def _rules(root: str, path: str) -> Callable[[str], bool]:
    """Whether something directly in ``path`` travels; a rule there goes before those of the folders above.

    So ``!/data/`` in a .rayignore takes along what LEFT_OUT names.
    """
    from pathspec import GitIgnoreSpec

    specs = [(root, GitIgnoreSpec.from_lines((*LEFT_OUT, *SECRETS)))]
    relative = os.path.relpath(path, root)
    steps = [] if relative == "." else relative.split(os.sep)
    for depth in range(len(steps) + 1):
        here = os.path.join(root, *steps[:depth])
        for name in IGNORES:
            with contextlib.suppress(OSError):
                lines = Path(here, name).read_text(errors="replace").splitlines()
                specs.append((here, GitIgnoreSpec.from_lines(lines)))

    def keep(whole: str) -> bool:
        slash = "/" if whole.endswith("/") else ""
        said = [spec.check_file(os.path.relpath(whole, base) + slash).include for base, spec in specs]
        return not next((left_out for left_out in reversed(said) if left_out is not None), False)

    return keep


def secrets_of(folder: str) -> list[str]:
    """Relative paths of what stays at home, as by its name it may hold passwords or keys; folders with a slash."""
    from pathspec import GitIgnoreSpec

    root, taken = os.path.realpath(folder), {name for name, _ in files_of(folder)}
    left_out, secret = GitIgnoreSpec.from_lines(LEFT_OUT), GitIgnoreSpec.from_lines(SECRETS)
    found = []
    for path, folders, names in os.walk(root):
        here = [os.path.relpath(os.path.join(path, name), root) for name in names]
        inner = [os.path.relpath(os.path.join(path, name), root) + "/" for name in folders]
        found += [name for name in (*here, *inner) if secret.match_file(name) and name not in taken]
        kept = [name for name in inner if not left_out.match_file(name) and not secret.match_file(name)]
        folders[:] = [os.path.basename(name.rstrip("/")) for name in kept]
    return sorted(found)


def check_folder(folder: str) -> None:
    """Raise ValueError where a home folder, or what holds one, would travel."""
    home, whole = os.path.realpath(os.path.expanduser("~")), os.path.realpath(folder)
    if os.path.commonpath([home, whole]) == whole:
        raise ValueError(
            f"--working_dir {folder!r}: it is, or holds, your home folder {home}; give the folder of a project"
        )


def pack(folder: str, target: str) -> int:
    """Copy what travels into ``target``, and Noiseweave's own code where the folder has none; returns bytes.

    A copy, so that what is written into the folder meanwhile, a log say, does not spoil the upload.

    Raises:
        ValueError: it is more than LIMIT; the line names the largest.
    """
    files = files_of(folder)
    total = sum(size for _, size in files)
    if total > LIMIT:
        largest = ", ".join(
            f"{name} ({size / 1e6:.0f} MB)" for name, size in sorted(files, key=lambda f: -f[1])[:3]
        )
        raise ValueError(
            f"--working_dir {folder!r}: {total / 1e6:.0f} MB, at most {LIMIT / 1e6:.0f}; largest: {largest}. Data and "
            "models belong on storage that every node reaches; .rayignore names what stays here"
        )
    for name, _ in files:
        goal = os.path.join(target, name)
        os.makedirs(os.path.dirname(goal), exist_ok=True)
        shutil.copy2(os.path.join(folder, name), goal)
    if not os.path.isfile(os.path.join(target, "noiseweave", "__init__.py")):
        own = os.path.dirname(os.path.abspath(noiseweave.__file__))
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(own, os.path.join(target, "noiseweave"), ignore=skip, dirs_exist_ok=True)
    return sum(path.stat().st_size for path in Path(target).rglob("*") if path.is_file())
