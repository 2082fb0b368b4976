"""The sample job with a small text-to-image pipeline: whose words, which noise, where they are written down."""

import itertools
import json
import shutil

import numpy as np
import pytest
import small_pipeline
from PIL import Image
from sampling import drawn, lines, pixels, read, refused, report, shard

from noiseweave.engine.networks import text_pipeline
from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.networks.recipes import ModelConfig, TextRecipe
from noiseweave.engine.seeding import seed_of

FAST = ["--text.steps", "2"]


@pytest.fixture
def base(kl_folder):
    return ["--model.name", kl_folder, *FAST]


def words(output):
    return [files["txt"].decode() for files in read(output).values()]


def same(a, b):
    return np.abs(a - b).max() <= 1


def test_words_on_the_command_line_become_captioned_pictures(base, tmp_path, capsys):
    assert drawn(tmp_path, "a cat", *base, "a dog", "--count", 2) == 0
    assert words(tmp_path) == ["a cat", "a cat", "a dog", "a dog"]
    pictures = pixels(tmp_path, 3)
    assert pictures.shape == (4, 32, 32, 3)
    assert not any(same(pictures[i], pictures[j]) for i in range(4) for j in range(i))
    line = lines(tmp_path)[2]
    assert (line["text"], line["key"], line["kind"], line["sampler"]) == (
        "a dog",
        "0:a dog",
        "text",
        "dpm-solver++",
    )
    assert (line["steps"], line["guidance"], line["network_evaluations"]) == (2, 7.5, 2)
    assert "2 network evaluations each" in capsys.readouterr().out
    assert Image.open(tmp_path / "grid.png").height > 2 * 32


def test_a_picture_is_the_same_in_other_units_and_places(base, tmp_path):
    (tmp_path / "p.txt").write_text("a bird\na cat\n# no\n\na dog\n")
    assert drawn(tmp_path / "file", *base, "--prompts_file", tmp_path / "p.txt") == 0
    sides = [{"txt": "a cat"}, {}, {"json": json.dumps({"caption": "a dog"})}]
    source = shard(tmp_path / "in/a.tar", sides)
    some = ["--shard_samples", 1, "--model.micro_batch", 1]
    assert drawn(tmp_path / "captions", *base, "--captions", source, *some) == 0
    assert words(tmp_path / "file") == ["a bird", "a cat", "a dog"]
    assert words(tmp_path / "captions") == ["a cat", "a dog"]
    assert same(pixels(tmp_path / "file", 3)[1:], pixels(tmp_path / "captions", 3))


def test_left_out_captions_are_said(base, tmp_path, capsys):
    source = shard(tmp_path / "in/a.tar", [{"txt": "a cat"}, {}])
    assert drawn(tmp_path / "o", *base, "--captions", source) == 0
    assert "no_caption" in capsys.readouterr().err


def test_an_interpolation_goes_from_one_prompt_to_the_other(base, tmp_path):
    assert drawn(tmp_path / "o", "--interpolate", "a cat", "a dog", "--frames", 3, *base) == 0
    assert words(tmp_path / "o") == ["a cat", "0.50 a cat + 0.50 a dog", "a dog"]
    assert [line["mix"] for line in lines(tmp_path / "o")] == [0, 0.5, 1]
    assert len({line["key"] for line in lines(tmp_path / "o")}) == 1
    frames = pixels(tmp_path / "o", 3)
    assert not same(frames[0], frames[2])
    apart = [np.abs(a - b).mean() for a, b in [(frames[0], frames[1]), (frames[1], frames[2])]]
    assert max(apart) < np.abs(frames[0] - frames[2]).mean()


def test_styles_of_a_prompt_start_from_the_same_noise(base, tmp_path):
    (tmp_path / "s.txt").write_text("oil on canvas\n{content}\nthe ghost of {content}\n")
    assert drawn(tmp_path / "o", "a cat", "a dog", "--styles", tmp_path / "s.txt", *base) == 0
    assert words(tmp_path / "o") == [
        "a cat, oil on canvas",
        "a cat",
        "the ghost of a cat",
        "a dog, oil on canvas",
        "a dog",
        "the ghost of a dog",
    ]
    keys = [line["key"] for line in lines(tmp_path / "o")]
    assert [len(set(keys[:3])), len(set(keys[3:])), len(set(keys))] == [1, 1, 2]
    assert drawn(tmp_path / "p", "a cat", *base) == 0
    assert same(pixels(tmp_path / "p", 3)[0], pixels(tmp_path / "o", 3)[1])
    page = Image.open(tmp_path / "o/grid.png")  # a row for each prompt, a column for each style
    assert page.height < 2 * page.width


def test_a_negative_prompt_a_size_and_a_trajectory(base, tmp_path):
    size = ["--text.height", 16, "--text.width", 40]
    assert drawn(tmp_path / "o", "a cat", *base, *size, "--trajectory", 2, "--text.steps", 3) == 0
    assert pixels(tmp_path / "o", 3).shape == (1, 16, 40, 3)
    strip = Image.open(tmp_path / "o/trajectories/sample-00000000.png")
    assert strip.size == (80, 16)
    assert Image.open(tmp_path / "o/trajectories/sample-00000000.webp").n_frames == 2
    assert drawn(tmp_path / "p", "a cat", *base) == 0
    assert drawn(tmp_path / "n", "a cat", *base, "--negative_prompt", "dogs") == 0
    assert not same(pixels(tmp_path / "p", 3), pixels(tmp_path / "n", 3))
    assert lines(tmp_path / "n")[0]["negative"] == "dogs"
    off = ["--negative_prompt", "dogs", "--text.guidance", 1]
    assert drawn(tmp_path / "off", "a cat", *base, *off) == 0
    assert drawn(tmp_path / "none", "a cat", *base, "--text.guidance", 1) == 0
    assert same(pixels(tmp_path / "off", 3), pixels(tmp_path / "none", 3))


def test_a_prompt_that_is_cut_is_said_once(base, tmp_path, capsys):
    long = "cat " * 75 + "and a last word"
    assert drawn(tmp_path, long, "a dog", *base, "--count", 2, "--shard_samples", 1) == 0
    out = capsys.readouterr().out
    assert out.count("prompt truncated, the text encoder does not read: ...and a last word") == 1
    assert "a dog" not in out


def test_the_network_evaluations_are_the_schedulers(base, tmp_path):
    """PNDM takes one more than its steps."""
    assert drawn(tmp_path, "a cat", *base, "--text.sampler", "pipeline", "--text.steps", 4) == 0
    assert report(tmp_path)["network_evaluations_per_picture"] == 5


def test_a_prompt_file_that_changed_is_another_run(base, tmp_path, capsys):
    (tmp_path / "p.txt").write_text("a cat\n")
    asked = [*base, "--prompts_file", tmp_path / "p.txt"]
    assert drawn(tmp_path / "o", *asked) == 0
    (tmp_path / "p.txt").write_text("a dog\n")
    assert "words" in refused(capsys, tmp_path / "o", *asked)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], "one of prompts, prompts_file, captions, interpolate is needed; given: none"),
        (["a cat", "--captions", "x.tar"], "given: prompts, captions"),
        (["a cat", " "], "a text is empty"),
        (["a cat", "--match", "x"], "match='x': null for a text-to-image model"),
        (["a cat", "--labels", "1"], "labels='1': null for a text-to-image model"),
        (["a cat", "--panel", "x.png"], "panel='x.png': null for a text-to-image model"),
        (["a cat", "--walk", "3"], "walk=3: null for a text-to-image model"),
        (["a cat", "--text.height", "60"], "text.height=60: a multiple of 8"),
        (["a cat", "--text.steps", "1001"], "text.steps=1001: the model has 1000 time steps"),
        (["a cat", "--text.sampler", "pipeline", "--trajectory", "2"], "PNDMScheduler does not report"),
        (["a cat", "--styles", "/nowhere.txt"], "styles '/nowhere.txt': cannot be read"),
        (["--interpolate", "a", "b", "--frames", "1"], "frames=1"),
        (["--captions", "/nowhere/*.tar"], "no .tar shards there"),
    ],
)
def test_wrong_usage_is_one_clear_line(base, change, message, tmp_path, capsys):
    assert message in refused(capsys, tmp_path / "o", *base, *change)
    assert not (tmp_path / "o/shards").exists()


# a safety checker


def careful(kl_folder, folder, first, second):
    """A copy of the pipeline whose checker flags some pictures: (folder, flagged at first, flagged both times)."""
    copy = shutil.copytree(kl_folder, folder)
    small_pipeline.flag_everything(copy)
    scores = [small_pipeline.unsafety(copy, x.astype(np.uint8)) for x in (first, second)]
    values = sorted(np.concatenate(scores))
    for low, high in itertools.pairwise(values):
        above = [s > (low + high) / 2 for s in scores]
        both = above[0] & above[1]
        if high - low > 1e-3 and both.any() and (above[0] & ~both).any() and not above[0].all():
            small_pipeline.flag_above(copy, float(low + high) / 2)
            return copy, above[0], both
    raise AssertionError(scores)


@pytest.mark.parametrize("files", ["shards", "folder"])
def test_what_is_flagged_is_drawn_once_more_and_then_left_out(kl_folder, tmp_path, capsys, files):
    how = ["a cat", "a dog", "a bird", "--count", 3, *FAST, "--shard_samples", 4]
    assert drawn(tmp_path / "calm", *how, "--model.name", kl_folder) == 0
    calm = pixels(tmp_path / "calm", 3)
    model = text_pipeline.load(ModelConfig(name=str(kl_folder)), TextRecipe(steps=2))
    prompts = [Prompt(text=line["text"], key=line["key"]) for line in lines(tmp_path / "calm")]
    seeds = [seed_of(0, "flagged", p.key) for p in prompts]
    second = np.stack(
        [
            text_pipeline.draw_prompts(model, [p], TextRecipe(steps=2), seed)[0]
            for p, seed in zip(prompts, seeds, strict=True)
        ]
    )
    copy, once, twice = careful(kl_folder, tmp_path / "m", calm, second)
    capsys.readouterr()
    assert drawn(tmp_path / "o", *how, "--model.name", copy, "--files", files) == 0
    names = [f"sample-{i:08d}" for i in np.flatnonzero(twice)]
    found, bad = report(tmp_path / "o"), (tmp_path / "o/quarantine.jsonl").read_text().splitlines()
    assert (found["samples"], found["quarantined"]) == (9 - len(names), {"flagged": len(names)})
    assert found["drawn_again"] == once.sum() - twice.sum()
    assert [(b["key"], b["reason"]) for b in map(json.loads, bad)] == [(n, "flagged") for n in names]
    assert f"{len(names)} flagged by the model's safety checker and not written: {', '.join(names)}" in (
        capsys.readouterr().out
    )
    assert (tmp_path / "o/grid.png").exists()
    if files == "folder":
        there = sorted(p.stem for p in (tmp_path / "o/images").glob("*.png"))
        assert there == [f"sample-{i:08d}" for i in np.flatnonzero(~twice)]
        return
    kept = np.flatnonzero(~twice)
    made, known = pixels(tmp_path / "o", 3), lines(tmp_path / "o")
    assert [line["number"] for line in known] == kept.tolist()
    for image, line, i in zip(made, known, kept, strict=True):
        assert same(image, second[i].astype(int) if once[i] else calm[i])
        assert line["seed"] == (seeds[i] if once[i] else 0)


def test_a_model_that_flags_all_gives_code_1_and_may_be_told_not_to_look(kl_folder, tmp_path):
    copy = shutil.copytree(kl_folder, tmp_path / "m")
    small_pipeline.flag_everything(copy)
    how = ["a cat", "--model.name", copy, *FAST]
    assert drawn(tmp_path / "o", *how) == 1
    assert report(tmp_path / "o")["quarantined"] == {"flagged": 1}
    assert not list((tmp_path / "o").rglob("*.tar"))
    assert drawn(tmp_path / "p", *how, "--model.safety_checker", "false") == 0
    assert report(tmp_path / "p")["samples"] == 1
