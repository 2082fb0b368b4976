"""Streams read each good sample once an epoch, in an order that depends on nothing but the seed."""

import io
import os
import tarfile
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from noiseweave.cluster import shards, storage, streams

HOW = {"seed": 1, "streams": 8, "buffer": 16}


def tar(*members: tuple[str, bytes], headers: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as t:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tables(folder, *counts: int) -> list[streams.Shard]:
    """Shards of so many samples each; key, bytes, label and caption of each are its own."""
    out = []
    for s, count in enumerate(counts):
        url = storage.join(str(folder), f"{s}.tar")
        samples = [
            (f"{s}/k{i}", {"png": b"%d-%d" % (s, i), "cls": b"%d" % i, "txt": b"c%d" % i})
            for i in range(count)
        ]
        storage.write(url, shards.pack(samples))
        out.append(streams.table(url)[0])
    return out


def whole(found) -> list[tuple[str, str]]:
    return [(t.url, location.key) for t in found for location in shards.locate(t.url)[0]]


def names(samples) -> list[tuple[str, str]]:
    return [(raw.shard, raw.key) for raw in samples]


def epoch(found, number: int, which: int = 0, **how) -> list[tuple[str, str]]:
    """One epoch of one stream."""
    how = HOW | how
    n = streams.epoch_length(sum(t.count for t in found), how["streams"], number)
    return names(islice(streams.stream(found, number=number, first=n * which, **how), n))


def test_a_table_counts_samples_and_labels(tmp_path):
    url = str(tmp_path / "a.tar")
    storage.write(
        url,
        tar(
            ("a.png", b"1"),
            ("a.cls", b"3"),
            ("b.png", b"2"),
            ("c.txt", b""),
            ("d.png", b""),
            ("e.jpg", b"4"),
            ("e.json", b'{"label": 3}'),
        ),
    )
    table, bad, labels = streams.table(url)
    assert (table.url, table.count) == (url, 3)
    assert [(b.key, b.reason) for b in bad] == [("c", "no_picture"), ("d", "empty_picture")]
    assert labels == {3: 2, None: 1}


def test_a_sample_comes_as_it_was_packed(tmp_path):
    samples = list(islice(streams.stream(tables(tmp_path, 5), **HOW | {"streams": 1}, number=0), 5))
    assert {(r.key, r.data, r.label, r.caption) for r in samples} == {
        (f"0/k{i}", b"0-%d" % i, i, f"c{i}") for i in range(5)
    }


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("sizes", [(40,), (8,), (13, 0, 1, 7, 2), (3,) * 11, (1030, 2, 500)])
def test_each_sample_is_read_once_an_epoch(sizes, count, tmp_path):
    found = tables(tmp_path, *sizes)
    for which in (0, 1, 5):
        read = [name for n in range(count) for name in epoch(found, n, which, streams=count)]
        assert Counter(read) == Counter(whole(found))


def test_fewer_samples_than_streams_are_shared(tmp_path):
    found = tables(tmp_path, 2, 1)
    read = [epoch(found, n) for n in range(8)]
    assert [len(r) for r in read] == [1] * 8
    assert {name for r in read for name in r} == set(whole(found))


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
def test_workers_share_the_streams(world):
    read = [number for rank in range(world) for number in streams.share(8, world, rank)]
    assert read == list(range(8))


def test_a_worker_without_a_stream_is_refused():
    with pytest.raises(ValueError, match="streams=8: 9 workers"):
        streams.share(8, 9, 0)


@pytest.mark.parametrize("buffer", [1, 2, 7, 100])
def test_it_resumes_at_any_position(buffer, tmp_path):
    found = tables(tmp_path, 6, 9, 4)  # a stream's epoch is of 9 or 10 samples
    for number in (0, 1):
        how = {"seed": 3, "streams": 2, "buffer": buffer, "number": number}
        undisturbed = names(islice(streams.stream(found, **how), 45))
        for first in range(33):
            assert names(islice(streams.stream(found, **how, first=first), 12)) == undisturbed[first:][:12]


def test_what_is_skipped_is_not_read(tmp_path):
    """Resuming behind the last sample of a shard does not open it."""
    found = tables(tmp_path, 30, 30, 30)
    how = HOW | {"streams": 1, "buffer": 4, "number": 0}
    order = names(islice(streams.stream(found, **how), 90))
    gone = streams.pieces(found, seed=how["seed"], streams=1, number=0, epoch=0)[1].shard.url
    behind = 1 + max(i for i, (url, _) in enumerate(order) if url == gone)
    assert 30 <= behind < 90
    os.remove(gone)
    assert names(islice(streams.stream(found, **how, first=behind), 90 - behind)) == order[behind:]
    with pytest.raises(ValueError, match="no longer is"):
        next(streams.stream(found, **how, first=behind - 1))


def test_the_order_is_the_seeds(tmp_path):
    found = tables(tmp_path, 30, 50, 40)
    assert epoch(found, 3) == epoch(found, 3)
    assert epoch(found, 3) != epoch(found, 3, seed=2)
    one = {"streams": 1}
    orders = [epoch(found, 0, which, **one) for which in range(4)]
    assert len({tuple(order) for order in orders}) == 4
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_a_single_shards_streams_have_other_samples_in_other_epochs(tmp_path):
    found = tables(tmp_path, 80)
    seen = {name for which in range(40) for name in epoch(found, 0, which)}
    assert len(seen) == 80


def test_with_uneven_arcs_no_sample_is_read_much_more_often(tmp_path):
    """9 samples in 8 streams: the last stream's epoch is of two. Each sample has its turns there."""
    found = tables(tmp_path, 9)
    read = Counter(
        name for n in range(8) for name in names(islice(streams.stream(found, **HOW, number=n), 900))
    )
    assert max(read.values()) / min(read.values()) < 1.2  # expected 800 each; without a turn 900 and 450


def places(found, which: int, **how) -> list[int]:
    """Where the samples of an epoch of a single stream stood before the buffer."""
    parts = streams.pieces(found, seed=HOW["seed"], streams=1, number=0, epoch=which)
    inorder = [(p.shard.url, f"{p.shard.url[-5]}/k{i}") for p in parts for i in range(p.start, p.stop)]
    return [inorder.index(name) for name in epoch(found, 0, which, streams=1, **how)]


def test_the_buffer_shuffles_over_the_borders_of_shards(tmp_path):
    found = tables(tmp_path, *[10] * 10)
    assert places(found, 0, buffer=1) == list(range(100))
    shuffled = places(found, 0, buffer=40)
    assert max(p - i for i, p in enumerate(shuffled)) <= 39
    assert len({p // 10 for p in shuffled[:10]}) >= 3
    assert sum(abs(p - i) for i, p in enumerate(shuffled)) / 100 > 10
    assert places(found, 1, buffer=40) != shuffled


def test_a_large_buffer_is_a_uniform_draw(tmp_path):
    """Each of 6 samples is first in a sixth of the epochs: 5 standard deviations of 1200 draws."""
    found = tables(tmp_path, 4, 2)
    how = HOW | {"streams": 1, "buffer": 6, "number": 0}
    order = names(islice(streams.stream(found, **how), 6 * 1200))
    first = Counter(order[::6])
    assert all(abs(n - 200) < 5 * (1200 * 5 / 36) ** 0.5 for n in first.values())
    assert len(first) == 6


def test_memory_urls():
    url = f"memory://{uuid.uuid4().hex}/in"
    found = tables(url, 5, 6)
    read = [name for n in range(8) for name in epoch(found, n)]
    assert Counter(read) == Counter(whole(found))
    storage.remove(url)


HOSTILE = {
    "duplicates": [("a.png", b"a"), ("b.png", b"b"), ("a.png", b"x"), ("a.cls", b"9"), ("c.png", b"c")],
    "a duplicate at the end": [("a.png", b"a"), ("a.cls", b"1"), ("b.png", b"b"), ("b.PNG", b"x")],
    "unsafe": [("../a.png", b"x"), ("b.png", b"b"), ("/c.png", b"x"), ("d/../../e.png", b"x")],
    "no extension": [("README", b"x"), ("a.png", b"a"), ("a", b"x"), ("a.cls", b"2")],
    "macos": [("__MACOSX/._a.png", b"x"), ("a.png", b"a"), ("__MACOSX/._b.png", b"x"), ("b.png", b"b")],
    "webdataset's own names": [
        ("__x__/a.png", b"1"),
        ("__a__.png", b"2"),
        ("__x__", b"3"),
        ("b.__key__", b"4"),
        ("b.png", b"5"),
        ("b.__url__", b"6"),
    ],
    "dots": [
        ("./a.png", b"1"),
        ("././a.png", b"2"),
        ("./d/b.png", b"3"),
        ("d/b.png", b"x"),
        ("e.f.png", b"4"),
    ],
    "no picture": [("a.txt", b"x"), ("b.png", b"b"), ("c.cls", b"1"), ("d.png", b"")],
    "labels": [
        ("a.png", b"x"),
        ("a.cls", b"cat"),
        ("b.png", b"b"),
        ("b.cls", b"7"),
        ("c.json", b"{"),
        ("c.png", b"x"),
    ],
    "sides first": [
        ("a.cls", b"4"),
        ("a.mp4", bytes(9999)),
        ("a.png", b"1"),
        ("b.json", b'{"label": 8}'),
        ("b.png", b"2"),
        ("b.jpg", b"x"),
    ],
    "looks like bzip2": [("BZh91AY&SY.png", b"1"), ("b.png", b"2")],
    "long and foreign names": [
        ("é/" + "ü" * 150 + ".png", b"1"),
        ("x" * 300 + ".png", b"2"),
        ("z.png", b"3"),
    ],
    "payload": [("a.payload", b"x"), ("a.png", b"1"), ("b.payload", b"x")],
}


def pictures(url: str) -> dict[tuple[str, str], tuple]:
    """What augment would read."""
    located = shards.locate(url)[0]
    data = storage.read_ranges(url, [(x.offset, x.size) for x in located])
    return {(url, x.key): (d, x.label, x.caption) for x, d in zip(located, data, strict=True)}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_the_table_counts_is_what_is_read(name, tmp_path):
    url = str(tmp_path / "0.tar")
    storage.write(url, tar(*HOSTILE[name], headers={"comment": "x"} if name == "dots" else None))
    twin = str(tmp_path / "1.tar")  # the same keys right behind: they are samples of their own
    storage.write(twin, tar(*HOSTILE[name]))
    found = [streams.table(u)[0] for u in (url, twin)]
    expected = pictures(url) | pictures(twin)
    assert len(expected) == sum(t.count for t in found)
    assert len(expected) >= 2
    for count in (1, 2):
        read = [
            raw
            for n in range(count)
            for raw in islice(
                streams.stream(found, seed=0, streams=count, number=n, buffer=1),
                streams.epoch_length(len(expected), count, n),
            )
        ]
        assert Counter(names(read)) == Counter(dict.fromkeys(expected, 1))
        assert {(r.shard, r.key): (r.data, r.label, r.caption) for r in read} == expected


def test_neighbouring_shards_with_the_same_key(tmp_path):
    found = []
    for i in range(3):
        storage.write(str(tmp_path / f"{i}.tar"), tar(("a.png", b"%d" % i), ("a.cls", b"%d" % i)))
        found.append(streams.table(str(tmp_path / f"{i}.tar"))[0])
    read = islice(streams.stream(found, seed=0, streams=1, number=0, buffer=1), 3)
    assert {(r.key, r.data, r.label) for r in read} == {("a", b"%d" % i, i) for i in range(3)}


def test_at_any_cut_of_a_tar_the_samples_before_it_are_read(tmp_path):
    url, samples = str(tmp_path / "0.tar"), [(f"k{i}", {"png": b"x" * 700, "cls": b"1"}) for i in range(4)]
    data = shards.pack(samples)
    for end in range(0, len(data), 211):
        storage.write(url, data[:end])
        found = [streams.table(url)[0]]
        if found[0].count:
            assert sorted(epoch(found, 0, streams=1)) == whole(found)
        else:
            with pytest.raises(ValueError, match="no sample to train on in 1 shards"):
                streams.stream(found, **HOW, number=0)


def test_another_payload(tmp_path):
    url = str(tmp_path / "a.tar")
    storage.write(
        url, tar(("a.png", b"1"), ("a.npy", b"22"), ("b.png", b"3"), ("c.npy", b""), ("d.npy", b"4"))
    )
    table, bad, _ = streams.table(url, payload=("npy",))
    assert [b.reason for b in bad] == ["no_npy", "empty_npy"]
    read = islice(streams.stream([table], seed=0, streams=1, number=0, buffer=1), 2)
    assert {(r.key, r.data) for r in read} == {("a", b"22"), ("d", b"4")}


def test_a_shard_that_vanishes_is_one_clear_error(tmp_path):
    found = tables(tmp_path, 10)
    reader = streams.stream(found, seed=0, streams=1, number=0, buffer=1)
    next(reader)
    os.remove(found[0].url)
    with pytest.raises(ValueError, match=r"shard .*0\.tar was readable when training began and no longer is"):
        list(islice(reader, 30))


@pytest.mark.parametrize("change", ["other keys", "longer", "cut", "in the payload", "label", "empty"])
def test_a_shard_that_changes_is_one_clear_error(change, tmp_path):
    found = tables(tmp_path, 4)
    url = found[0].url
    data = storage.read(url)
    changed = {
        "other keys": data.replace(b"0/k2", b"0/q2"),
        "longer": shards.pack([("new", {"png": b"1"})])[:1024] + data,
        "cut": data[: 3 * 3072 + 700],
        "in the payload": data[: 3 * 3072 + 513],
        "label": data[: 512 * 3] + b"8" + data[512 * 3 + 1 :],
        "empty": b"",
    }[change]
    assert changed != data
    storage.write(url, changed)
    with pytest.raises(ValueError, match=r"0\.tar has changed since training began: sample 0/k\d"):
        epoch(found, 0, streams=1)


def test_a_picture_that_was_cut_is_one_clear_error(tmp_path):
    url = str(tmp_path / "0.tar")
    storage.write(url, tar(("a.png", b"x" * 700)))
    found = [streams.table(url)[0]]
    storage.write(url, storage.read(url)[:1000])
    with pytest.raises(ValueError, match=r"0\.tar has changed since training began: sample a"):
        epoch(found, 0, streams=1)


def open_shards() -> list[str]:
    links = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
    return [os.readlink(x) for x in links if os.path.lexists(x) and os.readlink(x).endswith(".tar")]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are listed in /proc")
def test_a_stream_holds_one_shard_open_and_closes_it(tmp_path):
    found = tables(tmp_path, *[3] * 8)
    reader = streams.stream(found, seed=0, streams=1, number=0, buffer=2)
    for _ in range(40):
        next(reader)
        assert len(open_shards()) <= 1
    reader.close()
    assert open_shards() == []


def decoder(bad):
    def decode(raw):
        if raw.key in bad:
            raise ValueError(f"corrupt: {raw.key}")
        return raw.data.decode()

    return decode


@pytest.fixture(params=[None, 1, 3])
def pool(request):
    if request.param is None:
        yield None
        return
    with ThreadPoolExecutor(request.param) as threads:
        yield threads


PLAIN = {"seed": 4, "streams": 2, "number": 0, "buffer": 3}


@pytest.mark.parametrize("ahead", [1, 2, 16])
@pytest.mark.parametrize("bad", [[], [0], [5], [0, 1, 2], [7, 8, 9], [9], [0, 3, 4, 9]])
def test_the_next_good_picture_stands_in(bad, ahead, pool, tmp_path):
    """10 samples an epoch: failures at its start, in its middle, at its end and over the border."""
    found = tables(tmp_path, 9, 11)
    order = list(islice(streams.stream(found, **PLAIN), 40))
    spoiled = {order[i].key for i in bad}
    good = [i for i, raw in enumerate(order) if raw.key not in spoiled]
    expected = [order[next(i for i in good if i >= place)].key for place in range(25)]
    for first in (0, 1, 4, 9, 10, 13):
        failures = []
        reader = streams.standing_in(
            streams.stream(found, **PLAIN, first=first),
            decoder(spoiled),
            lambda raw, e, seen=failures: seen.append((raw.key, str(e))),
            patience=10,
            pool=pool,
            ahead=ahead,
        )
        read = list(islice(reader, 25 - first))
        reader.close()
        assert [raw.key for raw, _ in read] == expected[first:]
        assert all(value == raw.data.decode() for raw, value in read)
        reported = [raw.key for raw in order[first:25] if raw.key in spoiled]
        assert [key for key, _ in failures][: len(reported)] == reported
        assert all(text == f"corrupt: {key}" for key, text in failures)


def test_when_nothing_can_be_decoded_it_ends(pool, tmp_path):
    found = tables(tmp_path, 12)
    every = {f"0/k{i}" for i in range(12)}
    reader = streams.standing_in(
        streams.stream(found, **PLAIN), decoder(every), lambda *_: None, patience=6, pool=pool
    )
    with pytest.raises(
        ValueError, match=r"none of 12 pictures can be decoded, the last: 0/k\d+ of .*corrupt"
    ):
        next(reader)


def test_one_good_picture_of_a_small_set_is_found_by_every_stream(tmp_path):
    """8 samples in 8 streams: an epoch of a stream is a single sample, and mostly a bad one."""
    found = tables(tmp_path, 8)
    bad = {f"0/k{i}" for i in range(7)}
    for number in range(8):
        samples = streams.stream(found, **HOW, number=number)
        reader = streams.standing_in(samples, decoder(bad), lambda *_: None, patience=1)
        assert {value for _, value in islice(reader, 3)} == {"0-7"}


def test_an_error_that_is_no_bad_picture_is_raised(pool, tmp_path):
    def decode(raw):
        raise MemoryError

    samples = streams.stream(tables(tmp_path, 3), **PLAIN)
    with pytest.raises(MemoryError):
        next(streams.standing_in(samples, decode, lambda *_: None, patience=1, pool=pool))
