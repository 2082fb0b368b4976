"""Shards are found, indexed and written as WebDataset has them; damage is named and never guessed over."""

import gzip
import io
import tarfile
import uuid

import pytest
import webdataset

from noiseweave.cluster import shards, storage

FOUR = [(f"k{i}", {"png": bytes([65 + i]) * 700, "cls": b"%d" % i, "txt": b"c"}) for i in range(4)]
WHOLE = shards.pack(FOUR)  # a sample is 1536 bytes of png, 1024 of cls, 1024 of txt
SAMPLE = 1536 + 1024 + 1024


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path)
        return
    url = f"memory://{uuid.uuid4().hex}/in"
    yield url
    storage.remove(url)


def put(folder, data: bytes, name: str = "a.tar") -> str:
    url = storage.join(str(folder), name)
    storage.write(url, data)
    return url


def tar(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as t:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as t:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        t.addfile(info)
    return buffer.getvalue()[:512] + tar(("b.png", b"fine"))


def look(url: str) -> tuple[list[str], list[str]]:
    located, bad = shards.locate(url)
    assert all(b.shard == url for b in bad)
    return [x.key for x in located], [b.reason for b in bad]


def test_locations_point_at_the_bytes(folder):
    url = put(folder, WHOLE)
    located, bad = shards.locate(url)
    assert bad == []
    assert [(x.key, x.label, x.caption) for x in located] == [(f"k{i}", i, "c") for i in range(4)]
    ranges = [(x.offset, x.size) for x in located]
    assert storage.read_ranges(url, ranges) == [files["png"] for _, files in FOUR]


def test_pack_is_a_function_of_its_input_and_webdataset_reads_it(tmp_path):
    assert shards.pack(FOUR) == WHOLE
    url = put(tmp_path, WHOLE)
    read = list(webdataset.WebDataset(url, shardshuffle=False))
    assert [(s["__key__"], {e: s[e] for e in ("png", "cls", "txt")}) for s in read] == FOUR


def test_webdatasets_own_writer_is_read(tmp_path):
    url = str(tmp_path / "w.tar")
    with webdataset.TarWriter(url) as sink:
        sink.write({"__key__": "dir.x/a", "png": b"1", "cls": 7, "json": {"caption": "hi"}})
        sink.write({"__key__": "b", "seg.png": b"2", "jpg": b"3"})
    located, bad = shards.locate(url)
    assert bad == []
    assert [(x.key, x.label, x.caption, x.size) for x in located] == [
        ("dir.x/a", 7, "hi", 1),
        ("b", None, None, 1),
    ]
    assert storage.read(url, located[1].offset, 1) == b"3"


@pytest.mark.parametrize(
    ("end", "kept", "cut"),
    [
        (0, 0, ""),
        (100, 0, ""),
        (511, 0, ""),  # in the first header: nothing says that it was a tar
        (512, 0, "k0"),
        (800, 0, "k0"),  # inside the first picture
        (1536, 0, "k0"),  # at a member's boundary: the label is lost, so the sample goes
        (1536 + 512, 0, "k0"),  # inside the label
        (SAMPLE + 100, 0, "k0"),  # in a header: k0 may have had more members
        (SAMPLE, 0, "k0"),  # at a sample's boundary: the same
        (SAMPLE + 600, 1, "k1"),  # inside k1's picture: k0 is whole
        (SAMPLE + 1536, 1, "k1"),
        (3 * SAMPLE + 700, 3, "k3"),
        (4 * SAMPLE, 3, "k3"),  # the end-of-archive blocks are missing
    ],
)
def test_a_cut_tar_keeps_whole_samples_alone(end, kept, cut, tmp_path):
    located, bad = shards.locate(put(tmp_path, WHOLE[:end]))
    assert [(x.key, x.label) for x in located] == [(f"k{i}", i) for i in range(kept)]
    assert [(b.key, b.reason) for b in bad] == [(cut, "truncated_tar" if cut else "unreadable_tar")]


def test_at_any_cut_each_kept_sample_is_complete(tmp_path):
    for end in range(0, len(WHOLE), 97):
        located, bad = shards.locate(put(tmp_path, WHOLE[:end]))
        assert all((x.label, x.caption, x.size) == (int(x.key[1]), "c", 700) for x in located)
        assert bad or len(located) == 4


def test_a_damaged_header_in_the_middle_is_no_end(tmp_path):
    hurt = WHOLE[: 2 * SAMPLE] + b"\xaa" * 512 + WHOLE[2 * SAMPLE + 512 :]
    assert look(put(tmp_path, hurt)) == (["k0"], ["truncated_tar"])


@pytest.mark.timeout(60)
def test_a_negative_size_does_not_hang(tmp_path):
    header = bytearray(tar(("a.png", b"x" * 10))[:512])
    header[124:136] = b"\xff" * 10 + b"\xfc\x00"  # base 256: -1024, back to before this header
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    kept, reasons = look(put(tmp_path, WHOLE[: 2 * SAMPLE] + bytes(header) + WHOLE[2 * SAMPLE :]))
    assert (kept, reasons) == (["k0"], ["truncated_tar"])


SPOILED = {
    "nothing": (b"", [], ["unreadable_tar"]),
    "text": (b"no tar at all " * 100, [], ["unreadable_tar"]),
    "gzip": (gzip.compress(WHOLE), [], ["unreadable_tar"]),
    "no members": (tar(), [], []),
    "duplicate key": (tar(("a.png", b"1"), ("b.png", b"2"), ("a.png", b"3")), ["a", "b"], ["duplicate_key"]),
    "duplicate neighbour": (tar(("a.png", b"1"), ("a.PNG", b"2")), ["a"], ["duplicate_key"]),
    "key out": (tar(("../a.png", b"1"), ("b.png", b"2")), ["b"], ["unsafe_key"]),
    "key out inside": (tar(("x/../../a.png", b"1"), ("b.png", b"2")), ["b"], ["unsafe_key"]),
    "absolute key": (tar(("/etc/a.png", b"1"), ("b.png", b"2")), ["b"], ["unsafe_key"]),
    "drive": (tar(("C:a.png", b"1"), ("b.png", b"2")), ["b"], ["unsafe_key"]),
    "backslashes": (tar(("..\\a.png", b"1"), ("b.png", b"2")), ["b"], ["unsafe_key"]),
    "no text": (tar(("\udcff.png", b"1"), ("b.png", b"2")), ["b"], ["unsafe_key"]),
    "symlink": (special("a.png", tarfile.SYMTYPE, "/etc/passwd"), ["b"], ["not_a_file"]),
    "hard link": (special("a.png", tarfile.LNKTYPE, "b.png"), ["b"], ["not_a_file"]),
    "device": (special("a.png", tarfile.CHRTYPE), ["b"], ["not_a_file"]),
    "folder": (special("a", tarfile.DIRTYPE), ["b"], []),
    "no extension": (tar(("README", b"1"), ("b.png", b"2")), ["b"], ["not_a_sample"]),
    "hidden files": (
        tar(("x/._b.png", b"1"), ("x/._c.png", b"1"), ("b.png", b"2")),
        ["b"],
        ["not_a_sample"] * 2,
    ),
    "no picture": (tar(("a.txt", b"1"), ("b.png", b"2")), ["b"], ["no_picture"]),
    "empty picture": (tar(("a.png", b""), ("b.png", b"2")), ["b"], ["empty_picture"]),
    "broken json": (tar(("a.png", b"1"), ("a.json", b"{"), ("b.png", b"2")), ["b"], ["bad_json"]),
    "deep json": (tar(("a.png", b"1"), ("a.json", b"[" * 10**5), ("b.png", b"2")), ["b"], ["bad_json"]),
    "long caption": (tar(("a.png", b"1"), ("a.txt", bytes(1 << 21)), ("b.png", b"2")), ["b"], ["bad_txt"]),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_is_wrong_is_named_and_the_rest_is_kept(name, folder):
    data, kept, reasons = SPOILED[name]
    assert look(put(folder, data)) == (kept, reasons)


def test_a_bad_name_can_be_written_into_a_report(folder):
    _, bad = shards.locate(put(folder, tar(("\udcff.png", b"1"))))
    bad[0].key.encode()


@pytest.mark.parametrize(
    "label", [b"cat", b"", b"3.5", b"-1", b"1_0", b"2147483648", b"9" * 5000, b"\xff", "٣".encode()]
)
def test_a_label_that_is_no_number_takes_its_sample_along(label, tmp_path):
    good = ("b.png", b"2"), ("b.cls", b" 12\n"), ("c.png", b"3"), ("c.cls", b"2.0")
    url = put(tmp_path, tar(("a.png", b"1"), ("a.cls", label), *good))
    located, bad = shards.locate(url)
    assert [(x.key, x.label) for x in located] == [("b", 12), ("c", 2)]
    assert [(b.key, b.reason) for b in bad] == [("a", "bad_label")]


@pytest.mark.parametrize(
    ("meta", "label"),
    [
        (b'{"label": 4}', 4),
        (b'{"label": "UNLIKELY"}', None),
        (b'{"label": "3"}', 3),
        (b'{"label": 2.0}', 2),
        (b'{"label": 2.5}', None),
        (b'{"label": [1]}', None),
        (b'{"label": true}', None),
        (b'{"label": -1}', None),
        (b"[1]", None),
        (b"{}", None),
    ],
)
def test_a_label_in_the_json_counts_if_it_is_one(meta, label, tmp_path):
    located, bad = shards.locate(put(tmp_path, tar(("a.png", b"1"), ("a.json", meta))))
    assert ([x.label for x in located], bad) == ([label], [])


def test_the_cls_goes_before_the_json(tmp_path):
    url = put(tmp_path, tar(("a.png", b"1"), ("a.json", b'{"label": 4, "caption": "j"}'), ("a.cls", b"5")))
    assert [(x.label, x.caption) for x in shards.locate(url)[0]] == [(5, "j")]


def test_another_payload_than_pictures(tmp_path):
    url = put(tmp_path, tar(("a.png", b"1"), ("a.NPY", b"22"), ("b.png", b"3"), ("c.npy", b"")))
    found, bad = shards.located(url, ("npy",))
    assert [(entry.key, list(entry.members), x.size) for entry, x in found] == [("a", ["png", "npy"], 2)]
    assert [(b.key, b.reason) for b in bad] == [("b", "no_npy"), ("c", "empty_npy")]


def test_a_shard_that_is_gone_is_an_error_not_a_bad_sample(folder):
    with pytest.raises(FileNotFoundError):
        shards.locate(storage.join(folder, "gone.tar"))


def test_a_read_error_is_an_error_not_a_bad_sample(tmp_path, monkeypatch):
    """The unit is tried again; a network that stumbles must not cost the whole shard."""
    url = put(tmp_path, WHOLE)
    monkeypatch.setattr(storage, "open_read", lambda _: (_ for _ in ()).throw(TimeoutError("slow")))
    with pytest.raises(TimeoutError):
        shards.index(url)


def test_a_folder_named_like_a_shard_is_bad(tmp_path):
    (tmp_path / "x.tar").mkdir()
    assert look(str(tmp_path / "x.tar")) == ([], ["unreadable_tar"])


@pytest.mark.parametrize("pattern", ["", "/*.tar", "/{a,b}.tar", "/[ab].tar", "/?.tar", "/"])
def test_find(pattern, folder):
    for name in ("b.tar", "a.tar", "notes.txt", "sub/c.tar"):
        put(folder, WHOLE, name)
    found = shards.find(folder + pattern)
    assert [f.rpartition("/")[2] for f in found] == ["a.tar", "b.tar"]
    assert all(look(f)[0] == ["k0", "k1", "k2", "k3"] for f in found)


def test_find_in_a_folder_with_brackets(tmp_path):
    put(tmp_path / "data[1]", WHOLE)
    put(tmp_path, WHOLE, "x[1].tar")
    assert shards.find(str(tmp_path / "data[1]")) == [str(tmp_path / "data[1]" / "a.tar")]
    assert shards.find(str(tmp_path / "x[1].tar")) == [str(tmp_path / "x[1].tar")]
    assert look(str(tmp_path / "x[1].tar"))[1] == []


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("", "is needed"),
        ("  ", "is needed"),
        ("{d}/none", "no such folder or shard"),
        ("{d}/*.tgz", "no .tar shards"),
        ("{d}/empty", "no .tar shards"),
        ("{d}/{{a,z}}.tar", "z.tar .1 missing"),
        ("{d}/{{a,*}}.tar", "twice"),
        ("s3nope://bucket/x.tar", "Protocol not known"),
    ],
)
def test_find_says_what_is_missing(pattern, words, tmp_path):
    put(tmp_path, WHOLE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=words):
        shards.find(pattern.format(d=tmp_path))


@pytest.mark.parametrize("key", ["a.b", "../a", "/a", "d/a.b"])
def test_pack_writes_no_key_that_reads_back_differently(key):
    with pytest.raises(AssertionError):
        shards.pack([(key, {"png": b"1"})])


def test_a_mask_beside_a_picture_is_located(folder):
    rows = [("a", {"mask.png": b"white", "png": b"x"}), ("b", {"png": b"x", "seg.png": b"y"})]
    url = put(folder, shards.pack(rows), "m.tar")
    (a, b), bad = shards.locate(url)
    assert not bad
    assert storage.read_ranges(url, [a.mask, (a.offset, a.size)]) == [b"white", b"x"]
    assert b.mask is None


def header(name: str, kind: bytes, size: int, **fields: bytes) -> bytes:
    """A ustar header of any kind, with bytes at offsets (at386=...)."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    data = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for place, value in fields.items():
        start = int(place.removeprefix("at"))
        data[start : start + len(value)] = value
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


def test_a_sparse_member_is_named_and_what_follows_is_kept(tmp_path):
    holes = b"%011o\0%011o\0" % (1 << 30, 512)  # 512 bytes at 1 GiB, and 1 GiB of nothing before
    sparse = header("hole.png", tarfile.GNUTYPE_SPARSE, 512, at386=holes, at483=b"%011o\0" % (1 << 30 | 512))
    assert look(put(tmp_path, sparse + b"x" * 512 + WHOLE)) == (["k0", "k1", "k2", "k3"], ["not_a_file"])


def test_a_sparse_header_that_is_cut_is_damage(tmp_path):
    cut = header("hole.png", tarfile.GNUTYPE_SPARSE, 512, at482=b"\1")
    kept, reasons = look(put(tmp_path, WHOLE[: 2 * SAMPLE] + cut))
    assert (kept, reasons) == (["k0"], ["truncated_tar"])
    assert shards.without(WHOLE[: 2 * SAMPLE] + cut, {"k0"})[1] == 1


def test_a_chain_of_long_names_is_damage(tmp_path):
    chain = (header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 2) + b"x\0".ljust(512, b"\0")) * 2000
    kept, reasons = look(put(tmp_path, WHOLE[: 2 * SAMPLE] + chain + WHOLE[2 * SAMPLE :]))
    assert (kept, reasons) == (["k0"], ["truncated_tar"])
    assert shards.without(WHOLE[: 2 * SAMPLE] + chain, {"k0"})[1] == 1
    assert look(put(tmp_path, chain, "b.tar")) == ([], ["unreadable_tar"])


def test_a_picture_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "IMAGE_LIMIT", 699)
    monkeypatch.setattr(storage, "read", None)
    located, bad = shards.locate(put(tmp_path, WHOLE))
    assert located == []
    assert [(b.key, b.reason) for b in bad] == [(f"k{i}", "too_large") for i in range(4)]


def test_a_digest_is_of_names_and_content(folder):
    a, b = put(folder, WHOLE, "a.tar"), put(folder, shards.pack(FOUR[::-1]), "b.tar")
    known = shards.digest([a, b])
    assert len(known) == 16
    assert known == shards.digest([a, b]) != shards.digest([a])
    put(folder, WHOLE, "b.tar")
    assert shards.digest([a, b]) != known, "another order of the same samples has the same size"
    put(folder, shards.pack(FOUR[::-1]), "b.tar")
    assert shards.digest([a, b]) == known


def test_members_of_a_key_are_one_sample_wherever_they_lie(tmp_path):
    url = put(
        tmp_path, tar(("a.png", b"A"), ("b.png", b"B"), ("a.cls", b"1"), ("b.cls", b"2"), ("a.txt", b"c"))
    )
    located, bad = shards.locate(url)
    assert [(x.key, x.label, x.caption) for x in located] == [("a", 1, "c"), ("b", 2, None)]
    assert bad == []


@pytest.mark.parametrize("again", [("a.png", "a.cls"), ("a.cls", "a.png")])
def test_another_sample_of_the_same_key_gives_the_first_nothing(again, tmp_path):
    second = [(name, b"7") for name in again]
    located, bad = shards.locate(put(tmp_path, tar(("a.png", b"A"), ("b.png", b"B"), *second)))
    assert [(x.key, x.label) for x in located] == [("a", None), ("b", None)], "the other's label is not its"
    assert [(b.key, b.reason) for b in bad] == [("a", "duplicate_key")] * 2
