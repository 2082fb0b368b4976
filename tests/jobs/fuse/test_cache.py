"""The fuse job's cache of noise maps: what it tells apart, and its bound."""

import numpy as np
import pytest
from fusing import failed, fused, picture

from noiseweave.engine.fusion import groups


def test_a_second_command_takes_its_noise_maps_from_the_cache(digits, monkeypatch, capsys):
    calls = []
    invert = groups.invert_pictures
    monkeypatch.setattr(groups, "invert_pictures", lambda *a: calls.append(len(a[1])) or invert(*a))
    fused("a.png", "b.png", "--output", "one", "--cache", "maps")
    assert "noise maps: 0 of 2 from the cache" in capsys.readouterr().out
    more = ("--mode", "linear", "--ratio", "0.3")
    fused("b.png", "c.png", "a.png", "--output", "two", "--cache", "maps", *more)
    assert "noise maps: 2 of 3 from the cache" in capsys.readouterr().out
    fused("b.png", "a.png", "--output", "three", "--cache", "maps", *more)
    fused("b.png", "a.png", "--output", "plain", *more)
    assert calls == [2, 1, 2]
    apart = picture("three/fused.png").astype(int) - picture("plain/fused.png")
    assert np.abs(apart).max() <= 1
    for change in (
        ["--seed", "1"],
        ["--inversion.sampler", "sde-dpm-solver++"],
        ["--inversion.noise", "shared"],
    ):
        fused("a.png", "b.png", "--output", "other", "--cache", "maps", *change)
        assert "noise maps: 0 of 2 from the cache" in capsys.readouterr().out


def test_the_cache_tells_source_texts_and_guidance_apart(photos, sd_folder, capsys):
    def hits(*more):
        fused("a.png", "b.png", "--output", "out", "--model.name", str(sd_folder), "--cache", "maps", *more)
        return capsys.readouterr().out.split("noise maps: ")[1][:6]

    assert hits("--prompt.source", '["a cat", "a dog"]') == "0 of 2"
    assert hits("--prompt.source", '["a cat", "an owl"]', "--ratio", "0.2") == "1 of 2"
    guided = ("--prompt.source", "a cat", "--prompt.guidance_source", "2")
    assert hits(*guided) == "0 of 2"
    assert hits(*guided, "--prompt.guidance_interval", "[0.2,0.8]") == "0 of 2"
    assert hits(*guided, "--prompt.guidance_interval", "[0.2,0.8]") == "2 of 2"


def kept(folder):
    return {p.name: p.stat().st_size for p in folder.glob("*.safetensors")}


def test_the_cache_stays_below_its_bound_and_the_least_recently_used_leave(digits, capsys):
    def hits(*names):
        fused(*names, "--output", "out", "--cache", "maps", "--cache_mib", "0.02")
        assert sum(kept(digits / "maps").values()) <= 0.02 * 2**20
        assert len(kept(digits / "maps")) == 2, "so many maps of 8 KiB and their digests"
        return capsys.readouterr().out.split("noise maps: ")[1].splitlines()[0][:6]

    assert hits("a.png", "b.png") == "0 of 2"
    assert hits("a.png", "a.png") == "1 of 1"
    assert hits("a.png", "c.png") == "1 of 2"  # b leaves: a was used since
    assert hits("a.png", "c.png") == "2 of 2"
    assert hits("b.png", "c.png") == "1 of 2"


@pytest.mark.parametrize("mib", ["0", "0.001"])
def test_a_cache_too_small_for_one_map_keeps_none_and_says_so(digits, capsys, mib):
    fused("a.png", "b.png", "--output", "small", "--cache", "maps", "--cache_mib", mib)
    told = capsys.readouterr().out
    assert "noise maps: 0 of 2 from the cache" in told
    assert f"cache_mib={mib}: too small, 2 noise maps of 0.01 MiB were not kept" in told
    assert kept(digits / "maps") == {}
    fused("a.png", "b.png", "--output", "none")
    assert (picture("small/fused.png") == picture("none/fused.png")).all()


@pytest.mark.parametrize("mib", ["-1", "nan", "inf"])
def test_a_bound_that_is_no_size_is_refused(digits, capsys, mib):
    assert "cache_mib" in failed(capsys, "a.png", "b.png", "--output", "out", "--cache_mib", mib)
