"""forget on real outputs of augment: what descends goes, all else stays byte for byte, whatever happens on the way."""

import json
import shutil
import tarfile

import inpaints
import numpy as np
import pytest
from flows import DIGITS, error_line
from forgetting import files, holding, job, parents, samples
from reports import data_of
from sklearn.datasets import load_digits

from noiseweave.cluster import lock, shards, storage
from noiseweave.cluster.pipeline import Outcome
from noiseweave.engine.pictures import images
from noiseweave.jobs.forget import config, remove

FAST = [
    *DIGITS,
    "--inversion.num_steps",
    2,
    "--inversion.skip",
    1,
    "--pairing.threshold",
    0.5,
    "--pairing.upper",
    1,
    "--pairing.max_pairs",
    24,
    "--pairing.group_images",
    6,
    "--samples.copy_original",
    "true",
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """30 digits in two shards, p00 to p14 and p15 to p29, each with a caption of its own."""
    folder = tmp_path_factory.mktemp("source") / "in"
    data = load_digits()
    grey = np.rint(data.images[:30] / 16 * 255).astype(np.uint8)[..., None]
    rows = [
        (f"p{i:02d}", {"png": images.encode(p), "cls": b"1", "txt": f"words{i:02d}".encode()})
        for i, p in enumerate(grey)
    ]
    storage.write(str(folder / "a.tar"), shards.pack(rows[:15]))
    storage.write(str(folder / "b.tar"), shards.pack(rows[15:]))
    return folder


@pytest.fixture(scope="module")
def chain(source, tmp_path_factory):
    """one is augmented from source, two from one: its parents are fused pictures and copies of digits."""
    folder = tmp_path_factory.mktemp("chain")
    assert job("augment", "--input", source, "--output", folder / "one", *FAST) == 0
    assert (
        job("augment", "--input", f"{folder}/one/{{shards,originals}}", "--output", folder / "two", *FAST)
        == 0
    )
    return folder


@pytest.fixture
def here(chain, tmp_path):
    """A copy of both outputs, in the same place, as index and lineage name it."""
    shutil.copytree(chain, tmp_path / "kept")
    yield chain
    shutil.rmtree(chain)
    shutil.copytree(tmp_path / "kept", chain)


def descendants(folders, key):
    """By hand: (folder, shard, key) of all that descends from a digit, and of its copies; keys are never of two."""
    every = {(f, *where): parents(one) for f in folders for where, one in samples(f).items()}
    gone, grown = {key}, True
    while grown:
        more = {where[2] for where, above in every.items() if above & gone}
        grown = not more <= gone
        gone |= more
    return {where for where in every if where[2] in gone}


def place_of(shard):
    """The folder of an output that a shard of that name lies in."""
    return "originals" if shard.startswith("original") else "shards"


def popular(folder):
    """The digit with the most descendants there."""
    below = [key for one in samples(folder).values() for key in parents(one)]
    return max(sorted({k for k in below if k.startswith("p")}), key=below.count)


def shown(folder):
    """The keys of the samples in a page's gallery."""
    cards = data_of((folder / "report.html").read_text())["gallery"]["cards"]
    return {card["key"] for card in cards}


def refused(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        job("forget", *arguments)
    assert stop.value.code == 2
    return error_line(capsys.readouterr().err)


def test_what_descends_through_a_chain_goes_and_nothing_else(here):
    key, both = popular(here / "one"), [here / "one", here / "two"]
    before, gone = {f: samples(f) for f in both}, descendants(both, key)
    old = {f: files(f) for f in both}
    assert {f for f, *_ in gone} == set(both)
    through = [w for w in gone if w[0] == here / "two" and key not in parents(before[w[0]][w[1:]])]
    assert [w for w in through if w[2].startswith("fused")], (
        "nothing descends through another: the test shows nothing"
    )
    assert job("forget", "--input", json.dumps([str(f) for f in both]), "--key", key) == 0
    for folder in both:
        left = samples(folder)
        assert left == {w: one for w, one in before[folder].items() if (folder, *w) not in gone}
        concerned = {f"{place_of(shard)}/{shard}" for f, shard, _ in gone if f == folder}
        new = files(folder)
        assert concerned == {n for n in old[folder] if n.endswith(".tar") and new.get(n) != old[folder][n]}
        assert not (folder / "contact_sheet.png").exists()
        assert shown(folder), "the page is built again"
        assert shown(folder) <= {key for _, key in left}
        assert not (folder / "_forget").exists()
        assert holding(folder, key) == holding(folder, f"words{key[1:]}") == set(), "a trace of it"
        report = json.loads((folder / "report.json").read_text())
        made = sum(shard.startswith("augmented") for shard, _ in left)
        assert report["samples"] == sum(report["modes"].values()) == made
        assert report["forgotten"] == report["pairs"] - made
        (request,) = json.loads((folder / "forget.json").read_text())["requests"]
        assert request["samples"] == sum(f == folder for f, *_ in gone) == sum(request["shards"].values())


def test_the_shards_are_what_augment_would_have_written_without_the_pictures(here):
    """A rewritten shard has the bytes of one that is packed anew from what is left."""
    key, before = popular(here / "one"), samples(here / "one")
    assert job("forget", "--input", here / "one", "--key", key) == 0
    for path in [*(here / "one/shards").glob("*.tar"), *(here / "one/originals").glob("*.tar")]:
        left = [(k, one) for (shard, k), one in before.items() if shard == path.name]
        left = [(k, one) for k, one in left if key not in parents(one) and k != key]
        assert path.read_bytes() == shards.pack(left)


def test_the_same_augment_brings_nothing_back(here, source):
    key = popular(here / "one")
    assert job("forget", "--input", here / "one", "--key", key) == 0
    before = samples(here / "one")
    assert job("augment", "--input", source, "--output", here / "one", *FAST) == 0
    assert samples(here / "one") == before
    assert (here / "one/contact_sheet.png").exists(), "made again, of what is left"
    assert json.loads((here / "one/report.json").read_text())["forgotten"] > 0
    for name in ("generate", "copy"):  # as if every unit had failed: they are made anew, without the picture
        shutil.rmtree(here / "one/_run/done" / name)
    shutil.rmtree(here / "one/shards")
    shutil.rmtree(here / "one/originals")
    assert job("augment", "--input", source, "--output", here / "one", *FAST) == 0
    again = samples(here / "one")
    assert again.keys() == before.keys()
    assert not any(key in parents(one) or k == key for (_, k), one in again.items())


@pytest.mark.parametrize("scope", ["dataset", "window"])
def test_a_run_that_has_read_nothing_yet_leaves_it_out(source, tmp_path, scope):
    """A window run keeps no plan of its pictures, so what it is not to use is told to it by a list."""
    one = ["--pairing.scope", "window", "--pairing.window", 1, "--pairing.overlap", 0]
    window = [] if scope == "dataset" else [*one, "--samples.copy_original", "false"]
    common = ["--input", source, "--output", tmp_path / "o", *FAST, *window]
    assert job("augment", *common) == 0
    key = popular(tmp_path / "o")
    assert job("forget", "--input", tmp_path / "o", "--key", key) == 0
    left = samples(tmp_path / "o")
    for name in ("_run/done", "_run/groups", "_run/groups.json", "shards"):
        path = tmp_path / "o" / name
        path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
    assert job("augment", *common) == 0
    again = samples(tmp_path / "o")
    assert left.keys() & again.keys()
    assert not any(key in parents(one) or k == key for (_, k), one in again.items())
    assert holding(tmp_path / "o", key) == set()


def test_killed_at_a_write_and_run_again_it_ends_as_an_undisturbed_run(here, tmp_path, monkeypatch):
    key, start = popular(here / "one"), tmp_path / "start"
    arguments = ["--input", json.dumps([str(here / "one"), str(here / "two")]), "--key", key]
    shutil.copytree(here, start)

    def until(step):
        """The exit code of a run that is killed before its write or removal ``step``, and how many it did."""
        done = 0

        def counted(action):
            def one(*given):
                nonlocal done
                if given[0].endswith(lock.NAME):  # this process lives on, and with it its lock would
                    return action(*given)
                if done == step:
                    raise KeyboardInterrupt
                done += 1
                return action(*given)

            return one

        with monkeypatch.context() as patch:
            patch.setattr(storage, "write", counted(storage.write))
            patch.setattr(storage, "remove", counted(storage.remove))
            return job("forget", *arguments), done

    code, total = until(None)
    assert code == 0
    wanted = files(here)
    for step in [5, total // 2, *range(2 * total // 3, total, total // 20), total - 1]:
        shutil.rmtree(here)
        shutil.copytree(start, here)
        assert until(step) == (130, step)
        assert job("forget", *arguments) == 0
        assert files(here) == wanted, f"killed at write {step} of {total}"


def test_another_key_waits_until_a_killed_one_is_done(here, monkeypatch, capsys):
    first, second = "p03", "p04"
    monkeypatch.setattr(remove, "run", lambda *_: Outcome(units=1, failed={"000000": "lost"}))
    assert job("forget", "--input", here / "one", "--key", first) == 1
    assert "another key" in refused(capsys, "--input", here / "one", "--key", second)


def test_a_dry_run_says_it_all_and_changes_nothing(here, capsys):
    before, key = files(here), popular(here / "one")
    assert job("forget", "--input", here / "one", "--key", key, "--dry_run") == 0
    said = capsys.readouterr().out
    count = sum(key in parents(one) for one in samples(here / "one").values())
    assert f"{count} samples descend from it" in said
    assert "nothing was changed" in said
    assert files(here) == before


@pytest.mark.parametrize("unfinished", [False, True])
def test_a_picture_of_a_folder_leaves_what_was_packed_of_it(tmp_path, unfinished):
    """The packed shards keep their byte ranges: what is left to do of the run is done from them."""
    for i, image in enumerate(load_digits().images[:20]):
        picture = images.encode(np.rint(image / 16 * 255).astype(np.uint8)[..., None])
        storage.write(str(tmp_path / f"in/n1/p{i:02d}.png"), picture)
        storage.write(str(tmp_path / f"in/n1/p{i:02d}.txt"), f"words{i:02d}".encode())
    words = ["--input", tmp_path / "in", "--output", tmp_path / "o", *FAST]
    assert job("augment", *words) == 0
    below = [key for one in samples(tmp_path / "o").values() for key in parents(one)]
    key = max(sorted(set(below)), key=below.count)
    size = (tmp_path / "o/_run/packed/shards/shard-000000.tar").stat().st_size
    assert job("forget", "--input", tmp_path / "o", "--key", key) == 0
    left = samples(tmp_path / "o")
    assert left
    assert (tmp_path / "o/_run/packed/shards/shard-000000.tar").stat().st_size == size
    if unfinished:
        for name in ("_run/done/generate", "_run/done/copy", "shards", "originals"):
            shutil.rmtree(tmp_path / "o" / name)
    assert job("augment", *words) == 0
    assert samples(tmp_path / "o") == left
    for text in (key, key.removeprefix("n1__"), f"words{key[-2:]}"):
        assert holding(tmp_path / "o", text) == set(), "a trace of it"


def test_again_and_an_unknown_key(here, capsys):
    key = popular(here / "one")
    assert job("forget", "--input", here / "one", "--key", key) == 0
    after = files(here)
    assert job("forget", "--input", here / "one", "--key", key) == 0
    assert "before" in capsys.readouterr().out
    assert "no picture, sample or lineage" in refused(capsys, "--input", here / "one", "--key", "p99")
    assert files(here) == after
    assert "no .tar shards" in refused(capsys, "--input", here, "--key", key)


def test_a_picture_without_descendants_leaves_the_index(here, source, capsys):
    below = [key for one in samples(here / "one").values() for key in parents(one)]
    key = next(f"p{i:02d}" for i in range(30) if f"p{i:02d}" not in below)
    for path in (here / "one/originals").glob("*.tar"):
        path.unlink()
    before = {n: h for n, h in files(here / "one").items() if n.endswith(".tar")}
    assert job("forget", "--input", here / "one", "--key", key) == 0
    assert "no sample descends" in capsys.readouterr().out
    assert holding(here / "one", key) == set()
    assert before == {n: h for n, h in files(here / "one").items() if n.endswith(".tar")}
    assert job("forget", "--input", here / "one", "--key", key) == 0, "known as forgotten"


def test_a_key_of_several_shards_needs_its_shard(tmp_path, capsys):
    picture = images.encode(np.zeros((8, 8, 1), np.uint8))

    def made(*above):
        known = {"parents": [{"shard": shard, "key": key} for shard, key in above]}
        return {"png": picture, "json": json.dumps(known).encode()}

    rows = [
        ("k0", made(("x/a.tar", "p"), ("x/a.tar", "q"))),
        ("k1", made(("y/a.tar", "p"), ("x/a.tar", "q"))),
    ]
    storage.write(str(tmp_path / "o/s.tar"), shards.pack(rows))
    error = refused(capsys, "--input", tmp_path / "o", "--key", "p")
    assert "x/a.tar, y/a.tar" in error
    assert "2 shards" in error
    assert "is in x/a.tar, y/a.tar" in refused(
        capsys, "--input", tmp_path / "o", "--key", "p", "--shard", "z.tar"
    )
    assert job("forget", "--input", tmp_path / "o", "--key", "p", "--shard", "y/a.tar") == 0
    assert [key for _, key in samples(tmp_path)] == ["k0"]
    assert job("forget", "--input", tmp_path / "o", "--key", "q") == 0
    assert not (tmp_path / "o/s.tar").exists(), "nothing was left in it"
    (_, last) = json.loads((tmp_path / "o/forget.json").read_text())["requests"]
    assert last["deleted"] == ["s.tar"]


def test_two_pictures_of_one_name_are_told_apart_by_their_bytes(tmp_path, capsys):
    for name, digest in (("one", "11"), ("two", "22")):
        known = {"parents": [{"shard": "a.tar", "key": "p", "sha256": digest * 32}]}
        row = ("k", {"png": b"x", "json": json.dumps(known).encode()})
        storage.write(str(tmp_path / name / "s.tar"), shards.pack([row]))
    both = json.dumps([str(tmp_path / "one"), str(tmp_path / "two")])
    assert "2 different pictures" in refused(capsys, "--input", both, "--key", "p")


def test_damaged_shards_are_told_and_stay(here, capsys):
    key, folder = popular(here / "one"), here / "one/shards"
    whole = (folder / "augmented-000000.tar").read_bytes()
    (folder / "cut.tar").write_bytes(whole[: len(whole) - 11000])
    (folder / "gzip.tar").write_bytes(b"\x1f\x8b\x08\x00" + whole[:2000])
    assert job("forget", "--input", here / "one", "--key", key) == 1
    said = capsys.readouterr().out
    assert "cut.tar (truncated_tar)" in said
    assert "gzip.tar (unreadable_tar)" in said
    assert (folder / "gzip.tar").read_bytes() == b"\x1f\x8b\x08\x00" + whole[:2000]
    assert (folder / "cut.tar").read_bytes().endswith(whole[len(whole) - 12000 : len(whole) - 11000])
    assert not any(key in parents(one) for one in samples(here / "one").values())


def test_members_that_are_no_samples_stay(tmp_path):
    def add(tar, name, data, kind=tarfile.REGTYPE):
        info = tarfile.TarInfo(name)
        info.size, info.type = len(data), kind
        tar.addfile(info, inpaints.io.BytesIO(data))

    long = "x" * 150  # a name with a header of its own
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("README", "k0.png", "k0.json", f"{long}.png", f"{long}.json", "k1.png", "../k1.png"):
            add(tar, name, name.encode() * 100)
        add(tar, "folder", b"", tarfile.DIRTYPE)
    data, gone = shards.without((tmp_path / "a.tar").read_bytes(), {"k0", long, "absent"})
    assert gone == 2
    with tarfile.open(fileobj=inpaints.io.BytesIO(data)) as tar:
        assert tar.getnames() == ["README", "k1.png", "../k1.png", "folder"]
        assert tar.extractfile("k1.png").read() == b"k1.png" * 100
    assert len(data) % 10240 == 0
    assert shards.without(data, {"k0"}) == (data, 0)


def test_what_inpaint_made_of_a_picture_in_a_shard(tmp_path):
    where = inpaints.mask(inpaints.block((16, 16), 3, 4, 6, 7))
    rows = [
        (f"d{i}", {"png": inpaints.saved(inpaints.digit(i), "PNG"), "mask.png": inpaints.saved(where, "PNG")})
        for i in range(4)
    ]
    storage.write(str(tmp_path / "in/a.tar"), shards.pack(rows))
    common = ["--input", tmp_path / "in", *inpaints.HARD, "--unit_pictures", 3, "--rows", 2]
    assert inpaints.drawn(tmp_path / "o", *common) == 0
    before = samples(tmp_path / "o")
    assert job("forget", "--input", tmp_path / "o", "--key", "d1") == 0
    assert samples(tmp_path / "o") == {w: one for w, one in before.items() if w[1] not in ("d1", "d1_2")}
    assert len(before) == 8
    assert json.loads((tmp_path / "o/report.json").read_text())["restored"] == 6


def test_what_unpack_made_is_not_reached_and_that_is_said(here, tmp_path, capsys):
    folder = tmp_path / "folder"
    assert job("unpack", here / "one", "--output", folder) == 0
    before = files(folder)
    with pytest.raises(SystemExit) as stop:
        job("forget", "--input", folder, "--key", "p05")
    assert stop.value.code == 2
    line = error_line(capsys.readouterr().err)
    assert f"input '{folder}': unpack made it" in line
    assert "run unpack again with --overwrite" in line
    assert job("forget", "--input", here / "one", "--key", "p05") == 0
    assert "folders that unpack made of these shards still have the pictures" in capsys.readouterr().out
    assert files(folder) == before
    assert job("unpack", here / "one", "--output", folder, "--overwrite") == 0
    assert holding(folder, "p05") == set()


def test_a_request_says_nothing_of_the_key():
    assert "ann" not in json.dumps(config.Config(input="x", key="ann").request)
