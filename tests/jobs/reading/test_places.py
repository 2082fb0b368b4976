"""What lies beside each other in a folder."""

import pytest
from loras import config_of

from noiseweave.jobs.evaluate import pictures
from noiseweave.jobs.lora import listing
from noiseweave.jobs.reading import places


def laid(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return str(root)


def test_a_folder_of_one_kind_is_taken(tmp_path):
    for where in (
        laid(tmp_path / "t", "a.tar", "a.json"),
        laid(tmp_path / "p", "a/b.png"),
        str(tmp_path / "none"),
    ):
        places.check_alone("input", where)


READERS = {
    "alone": lambda given: places.check_alone("input", given),
    "evaluate": lambda given: pictures.find("input", given, 4),
    "lora": lambda given: listing.found_in(config_of(given, "m", "o"), given, "input"),
}


@pytest.mark.parametrize("reader", READERS)
def test_shards_beside_pictures_are_never_guessed(reader, tmp_path):
    given = laid(tmp_path, "a.tar", "b.tar", "cat/0.png", "cat/1.gif", "dog/x/0.jpg")
    words = (
        r"^input='.*': 2 \.tar beside 3 pictures \(folders cat, dog/x\); name the shards as .*/\*\.tar, or"
    )
    with pytest.raises(ValueError, match=words):
        READERS[reader](given)
