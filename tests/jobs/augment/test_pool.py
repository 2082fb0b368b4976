"""augment with a pool of unlabelled pictures: guessed labels, and pairs of these beside the labelled ones."""

import json
import shutil

import numpy as np
import pytest
from augments import BASE, report, through, write_shard
from flows import error_line, inline
from forgetting import holding
from sklearn.datasets import load_digits

from noiseweave.cluster import storage
from noiseweave.engine.pictures import images
from noiseweave.engine.usefulness.guesses import Regression
from noiseweave.jobs.augment import pool

CLASSES = 4
NAMES = [f"number {i}" for i in range(CLASSES)]


def pictures(count):
    data = load_digits(n_class=CLASSES)
    grey = np.rint(data.images[:count] / 16 * 255).astype(np.uint8)
    return grey.repeat(2, 1).repeat(2, 2)[..., None], data.target[:count]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """24 labelled digits; a pool of 76 others without labels, 6 of the labelled again, and what is no picture."""
    root = tmp_path_factory.mktemp("pool")
    image_N, label_N = pictures(100)
    files = [images.encode(image) for image in image_N]
    known = [(f"k{i:03d}", {"png": files[i], "cls": b"%d" % label_N[i]}) for i in range(24)]
    write_shard(root / "in/s.tar", known)
    storage.write_json(str(root / "in/classes.json"), NAMES)
    others = [(f"p{i:03d}", {"png": files[i]}) for i in range(24, 100)]
    again = [(f"again{i}", {"png": files[i]}) for i in range(3)]
    again += [(f"again{i}", {"webp": images.encode(image_N[i], "webp")}) for i in range(3, 6)]
    write_shard(root / "pool/p-0.tar", others[:40] + again)
    write_shard(root / "pool/p-1.tar", [*others[40:], ("torn", {"png": b"torn"})])
    return root


def words(places, output, *more):
    given = [
        "--input",
        places / "in",
        "--pool",
        places / "pool",
        "--guess.confidence",
        0.8,
        "--pairing.hash",
        1,
    ]
    return [*BASE, *given, "--output", output, *more]


def parents_of(made):
    return [p for files in made.values() for p in json.loads(files["json"])["parents"]]


@pytest.fixture(scope="module")
def run(places, tmp_path_factory):
    """A run that writes the guessed pictures too: its folder, its report and its samples."""
    output = tmp_path_factory.mktemp("run") / "o"
    numbers, made = through(output, *words(places, output, "--samples.keep_pool"))
    return output, numbers, made


def test_guessed_pictures_are_parents_beside_the_labelled_ones_and_marked(run):
    _, numbers, made = run
    truth = {f"p{i:03d}": label for i, label in enumerate(pictures(100)[1])}
    guessed = [p for p in parents_of(made) if "guess" in p]
    own = [p for p in parents_of(made) if "guess" not in p]
    assert guessed
    assert own
    assert {p["shard"] for p in own} == {"s.tar"}
    assert {p["shard"] for p in guessed} <= {"pool/p-0.tar", "pool/p-1.tar"}
    assert all(0.8 <= p["guess"] <= 1 for p in guessed)
    assert np.mean([truth[p["key"]] == p["label"] for p in guessed]) > 0.8
    for files in made.values():
        first, second = json.loads(files["json"])["parents"]
        assert int(files["cls"]) == first["label"] == second["label"]
    assert numbers["samples"] == len(made)


def test_what_is_the_input_again_is_left_out_and_all_is_counted(run):
    _, numbers, made = run
    known = numbers["pool"]
    assert known["pictures"] == 82
    assert known["again"] >= 6
    assert known["again"] + known["unsure"] + sum(known["guessed"].values()) == 82
    assert not any(p["key"].startswith("again") for p in parents_of(made))
    assert numbers["images"] == 24
    assert numbers["quarantined"] == {"not_an_image": 1}
    assert numbers["images_inverted"] <= numbers["pair_ends"]
    assert numbers["pictures_used"] <= 24 + sum(known["guessed"].values())


def test_the_guessed_pictures_themselves_have_their_guesses(run, places):
    output, numbers, _ = run
    (found,) = [sorted((output / "guessed").iterdir())]
    from noiseweave.cluster import shards

    kept = {
        e.key: {x: storage.read(str(path), m.offset, m.size) for x, m in e.members.items()}
        for path in found
        for e in shards.index(str(path))[0]
    }
    assert len(kept) == sum(numbers["pool"]["guessed"].values())
    for key, files in kept.items():
        known = json.loads(files["json"])
        assert known["guess"]["label"] == int(files["cls"])
        assert known["copied_from"]["key"] == key
        assert known["copied_from"]["shard"].startswith("pool/p-")
    assert not (output / "originals").exists()


def test_a_folder_of_pictures_is_a_pool_too(run, places, tmp_path):
    _, _, made = run
    image_N, _ = pictures(100)
    for i in range(24, 100):
        storage.write(str(tmp_path / f"loose/p{i:03d}.png"), images.encode(image_N[i]))
    (tmp_path / "loose/class").mkdir()
    storage.write(str(tmp_path / "loose/class/x.png"), images.encode(image_N[0]))
    numbers, other = through(
        tmp_path / "o", *words(places, tmp_path / "o", "--pool", tmp_path / "loose", "--samples.keep_pool")
    )
    assert numbers["pool"]["pictures"] == 77
    assert numbers["pool"]["guessed"] == run[1]["pool"]["guessed"]
    used = {p["key"] for p in parents_of(other) if "guess" in p}
    assert used
    assert used <= {f"p{i:03d}" for i in range(24, 100)}
    assert len(other) == len(made)
    assert (
        inline("augment", *words(places, tmp_path / "o", "--pool", tmp_path / "loose", "--samples.keep_pool"))
        == 0
    )


def test_resumed_after_any_phase_it_ends_as_an_undisturbed_run(run, places, tmp_path, monkeypatch):
    _, _, wanted = run
    for phase in ("guess", "pool", "keep"):
        output = tmp_path / phase
        shutil.copytree(run[0], output)
        shutil.rmtree(output / "_run")
        for name in ("shards", "guessed"):
            shutil.rmtree(output / name)
        for name in ("report.json", "quarantine.jsonl", "report.html", "contact_sheet.png", "classes.json"):
            (output / name).unlink()
        mark = pool.Ledger.mark

        def stop(self, name, *more, at=phase, mark=mark):
            if name == at:
                raise KeyboardInterrupt
            mark(self, name, *more)

        monkeypatch.setattr(pool.Ledger, "mark", stop)
        assert inline("augment", *words(places, output, "--samples.keep_pool")) == 130
        monkeypatch.undo()
        assert through(output, *words(places, output, "--samples.keep_pool"))[1] == wanted


def test_a_changed_pool_is_refused(run, places, tmp_path, capsys):
    shutil.copytree(run[0], tmp_path / "o")
    shutil.copytree(places / "pool", tmp_path / "pool")
    (tmp_path / "pool/p-1.tar").unlink()
    with pytest.raises(SystemExit):
        inline("augment", *words(places, tmp_path / "o", "--samples.keep_pool", "--pool", tmp_path / "pool"))
    line = error_line(capsys.readouterr().err)
    assert "pool.shards 2 -> 1" in line
    with pytest.raises(SystemExit):
        inline("augment", *words(places, tmp_path / "o", "--samples.keep_pool", "--guess.confidence", 0.7))
    assert "guess.confidence 0.8 -> 0.7" in error_line(capsys.readouterr().err)


def refused(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        inline("augment", *arguments)
    assert stop.value.code == 2
    return error_line(capsys.readouterr().err)


def test_a_pool_that_can_serve_for_nothing_is_one_line(places, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    write_shard(tmp_path / "torn/a.tar", [("a", {"png": b"torn"})])
    rows = [(f"u{i}", {"png": images.encode(p)}) for i, p in enumerate(pictures(6)[0])]
    write_shard(tmp_path / "bare/a.tar", rows)
    write_shard(tmp_path / "one/a.tar", [(k, files | {"cls": b"1"}) for k, files in rows])
    write_shard(tmp_path / "clash/in/pool/a.tar", rows)
    write_shard(tmp_path / "clash/in/b.tar", rows)
    write_shard(tmp_path / "clash/pool/a.tar", rows)

    def line(name, *more):
        return refused(capsys, *words(places, tmp_path / f"o-{name}", *more))

    assert "pool" in line("none", "--pool", tmp_path / "empty")
    assert "no picture in it opens" in line("torn", "--pool", tmp_path / "torn")
    assert "two classes or more; it has none" in line("bare", "--input", tmp_path / "bare")
    assert "two classes or more; it has 1" in line("one", "--input", tmp_path / "one")
    assert "needs a pool" in refused(
        capsys, *BASE, places / "in", "--samples.keep_pool", "--output", tmp_path / "o"
    )
    assert "pairing.scope=dataset" in line("window", "--pairing.scope", "window")
    assert "has the name of" in line("same", "--pool", places / "in")
    clash = ["--input", str(tmp_path / "clash/in/{pool/a,b}.tar"), "--pool", tmp_path / "clash/pool"]
    assert "has the name of" in line("clash", *clash)
    assert "guess.confidence=1.5" in line("sure", "--guess.confidence", 1.5)


def test_nothing_sure_enough_and_a_class_of_one_are_told_and_the_rest_goes_on(places, tmp_path, capsys):
    output = tmp_path / "o"
    image_N, label_N = pictures(24)
    rows = [
        (f"k{i:03d}", {"png": images.encode(image), "cls": b"%d" % label})
        for i, (image, label) in enumerate(zip(image_N, label_N, strict=True))
        if label != 3 or i == 3
    ]
    write_shard(tmp_path / "in/s.tar", rows)
    storage.write_json(str(tmp_path / "in/classes.json"), NAMES)
    more = ["--input", tmp_path / "in", "--guess.confidence", 1.0, "--samples.keep_pool", "--files", "folder"]
    assert inline("augment", *words(places, output, *more)) == 0
    said = capsys.readouterr()
    assert "one labelled picture alone to guess by in class number 3" in said.err
    assert "no picture of it is as sure as guess.confidence=1.0 (the surest 0.9" in said.err
    numbers = report(output)
    assert numbers["pool"]["guessed"] == {}
    assert numbers["samples"] > 0
    assert numbers["classes_without_pairs"] == {"3": "1 picture, a pair needs 2"}
    assert not (output / "guessed").exists()


def test_a_pool_of_the_labelled_pictures_is_left_out_counted_and_said(places, tmp_path, capsys):
    image_N, _ = pictures(24)
    write_shard(tmp_path / "pool/p.tar", [(f"p{i}", {"png": images.encode(image_N[i])}) for i in range(24)])
    output = tmp_path / "o"
    assert inline("augment", *words(places, output, "--pool", tmp_path / "pool")) == 0
    said = capsys.readouterr()
    assert "pool: all its 24 pictures are the input's again; the labelled ones alone are paired" in said.err
    assert "24 pictures; 0 not sure enough, 24 are pictures of the input again" in " ".join(said.out.split())
    assert report(output)["pool"] == {"pictures": 24, "guessed": {}, "unsure": 0, "again": 24}


def test_the_labels_of_a_pool_are_passed_over(places, tmp_path, run):
    """Every picture of the pool says that it is of class 0."""
    image_N, _ = pictures(100)
    rows = [(f"p{i:03d}", {"png": images.encode(image_N[i]), "cls": b"0"}) for i in range(24, 100)]
    write_shard(tmp_path / "pool/p.tar", rows)
    _, made = through(tmp_path / "o", *words(places, tmp_path / "o", "--pool", tmp_path / "pool"))
    assert {p["label"] for p in parents_of(made) if "guess" in p} > {0}


def test_forget_finds_a_picture_of_the_pool(run, tmp_path):
    output = tmp_path / "o"
    shutil.copytree(run[0], output)
    key = next(p["key"] for p in parents_of(run[2]) if "guess" in p)
    assert inline("forget", "--key", key, "--input", output) == 0
    assert holding(output, f'"{key}"') | holding(output, f"{key}.png") == set()
    assert report(output)["forgotten"] > 0


def test_near_hashes_are_found_in_any_number_of_pieces(monkeypatch):
    monkeypatch.setattr(pool, "CHUNK", 3)
    hash_M = np.array([0, 0xFF], np.uint64)
    hash_N = np.array([1, 0xF0, 0x7F, 1 << 63, 0xFFFF, 0xFF00, 0], np.uint64)
    assert pool.near(hash_N, hash_M, 1).tolist() == [True, False, True, True, False, False, True]
    assert not pool.near(hash_N, hash_M, None).any()
    assert not pool.near(hash_N, hash_M[:0], 6).any()


@pytest.mark.parametrize("classes", [2, 3])
def test_a_regression_says_what_sklearn_says(classes):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    f_MD, label_M = rng.normal(size=(30, 5)), rng.integers(0, classes, 30) * 3
    ours = Regression.of(f_MD, label_M)
    theirs = LogisticRegression(C=100.0, max_iter=1000).fit(f_MD, label_M)
    np.testing.assert_allclose(ours.chances(f_MD), theirs.predict_proba(f_MD), atol=1e-9)
    assert ours.class_K.tolist() == theirs.classes_.tolist()
