"""The folder of noise maps: bounded, atomic, shared, harmless to other files."""

import os
import time
import uuid
import warnings

import pytest
import torch

from noiseweave.cluster import storage
from noiseweave.cluster.map_store import MapStore
from noiseweave.engine.fusion.map_cache import MapCache, size_of
from noiseweave.engine.records import NoiseMaps

KEYS = [f"{i:064x}" for i in range(8)]


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path / "maps")
        return
    url = f"memory://{uuid.uuid4().hex}/maps"
    yield url
    storage.remove(url)


def held(folder):
    return {name[:64] for name in storage.names_in(folder)}


def test_get_put_remove(folder):
    store = MapStore(folder, 100)
    assert store.get(KEYS[0]) is None
    assert KEYS[0] not in store
    store.put(KEYS[0], b"abc")
    assert KEYS[0] in store
    assert store.get(KEYS[0]) == b"abc"
    store.remove(KEYS[0])
    store.remove(KEYS[0])
    assert store.get(KEYS[0]) is None


def test_the_oldest_leave_when_the_limit_is_reached(folder):
    store = MapStore(folder, 100)
    for key in KEYS[:4]:
        store.put(key, bytes(30))
        time.sleep(0.02)
    assert held(folder) == set(KEYS[1:4])
    store.put(KEYS[4], bytes(101))  # larger than all: not kept, and nothing leaves for it
    assert held(folder) == set(KEYS[1:4])
    store.put(KEYS[5], bytes(100))
    assert held(folder) == {KEYS[5]}


def test_on_a_local_disk_a_read_counts_as_use(tmp_path):
    store = MapStore(str(tmp_path), 100)
    for age, key in enumerate(KEYS[:3]):
        store.put(key, bytes(30))
        os.utime(tmp_path / f"{key}.safetensors", (1000 + age, 1000 + age))
    store.get(KEYS[0])
    store.put(KEYS[3], bytes(30))
    assert held(tmp_path) == {KEYS[0], KEYS[2], KEYS[3]}


def test_other_files_are_left_alone_and_what_killed_writers_left_is_not(tmp_path):
    left, live = (f".{KEYS[0]}.safetensors.{uuid.uuid4().hex}.tmp" for _ in range(2))
    for name in ("notes.txt", "model.safetensors", left, live):
        (tmp_path / name).write_bytes(bytes(500))
        os.utime(tmp_path / name, (1, 1))
    os.utime(tmp_path / live)
    MapStore(str(tmp_path), 100).put(KEYS[0], bytes(60))
    assert sorted(storage.names_in(str(tmp_path))) == sorted(
        ["notes.txt", "model.safetensors", live, f"{KEYS[0]}.safetensors"]
    )


def test_a_key_never_becomes_another_path(folder):
    for key in ("../x", "a", KEYS[0].upper().replace("0", "G"), f"{KEYS[0]}/../x"):
        with pytest.raises(AssertionError):
            MapStore(folder, 100).get(key)


def test_a_disk_that_takes_nothing_costs_a_warning(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    store = MapStore(str(tmp_path / "file" / "maps"), 100)  # no folder can be made there
    with pytest.warns(UserWarning, match="not kept"):
        store.put(KEYS[0], b"abc")


def test_spill_and_reload_by_another_process_bit_for_bit_and_damage_is_removed(folder):
    def maps(seed):
        g = torch.Generator().manual_seed(seed)
        return NoiseMaps(
            x_T_CHW=torch.randn(2, 4, 4, generator=g),
            residual_TCHW=torch.randn(5, 2, 4, 4, generator=g),
            timesteps_T=torch.arange(5, 0, -1),
        )

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = MapCache(2 * size_of(maps(0)), MapStore(folder, 1 << 20))
        for i in range(5):
            cache.put(KEYS[i], maps(i))
        assert cache.spilled == 3
        cache.flush()
    later = MapCache(1 << 20, MapStore(folder, 1 << 20))
    for i in range(5):
        assert torch.equal(later.get(KEYS[i]).residual_TCHW, maps(i).residual_TCHW)
    path = storage.join(folder, f"{KEYS[2]}.safetensors")
    storage.write(path, storage.read(path)[:-7])
    again = MapCache(1 << 20, MapStore(folder, 1 << 20))
    assert again.get(KEYS[2]) is None
    assert again.damaged == 1
    assert not storage.exists(path)
    again.put(KEYS[2], maps(2))
    again.flush()
    assert storage.exists(path)
