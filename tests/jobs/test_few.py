"""A few pictures -> LoRA weights -> a bank of prompts, fused pairs -> the gate: the commands of docs/photos.md."""

import json
from pathlib import Path

import numpy as np
import pytest
from flows import inline
from fusing import png
from sampling import labels, lines, pixels, read

from noiseweave.jobs import cli

CONFIGS = Path(__file__).parents[2] / "configs"
CLASSES = {"moss": (30, 200, 60), "sand": (230, 200, 90)}
JUDGE = ["--quality.classifier.steps", 20]  # in place of a minute
CHAIN = ["--inversion.num_steps", 4, "--inversion.skip", 0]


def few_pictures(folder):
    """Four pictures of each class: its colour, a little brighter or darker from place to place."""
    for c, (name, colour) in enumerate(CLASSES.items()):
        (folder / name).mkdir(parents=True)
        for i in range(4):
            soft = np.random.default_rng(9 * c + i).normal(0, 8, (4, 4, 1)).repeat(8, 0).repeat(8, 1)
            data = png(np.clip(colour + soft, 0, 255).astype(np.uint8))
            (folder / name / f"{i}.png").write_bytes(data)
    return folder


def away(image_NHWC, label_N):
    """Mean distance of pictures' mean colours from those of their classes."""
    wanted = np.array(list(CLASSES.values()))[label_N]
    return float(np.abs(image_NHWC.mean((1, 2)) - wanted).mean())


@pytest.mark.slow  # 40 s: each step of the recipe on a pipeline of 32 pixels
def test_the_recipe_for_a_few_pictures(taught_folder, tmp_path):
    few_pictures(tmp_path / "my")
    shards, weights = tmp_path / "few/shards", tmp_path / "lora/lora_unet.safetensors"
    pack = ["pack", "--input", tmp_path / "my", "--size", 32, "--output", tmp_path / "few"]
    assert cli.main([*map(str, pack)]) == 0

    config = ["--config", CONFIGS / "lora-few.yaml", "--model", taught_folder, "--input", shards]
    small = ["--size", 32, "--batch", 8, "--accum", 1, "--steps", 60, "--optimizer.lr", 2e-2, "--rank", 8]
    assert inline("lora", *config, *small, "--output", tmp_path / "lora") == 0

    config = ["--config", CONFIGS / "sample-bank.yaml", "--prompts_file", CONFIGS / "bank.txt"]
    bank = [*config, "--classes", shards, "--model.name", taught_folder, "--count", 1, "--text.steps", 6]
    found = {}
    for weight in (0, 1):
        output, more = tmp_path / f"bank-{weight}", ["--model.lora", weights, "--model.lora_weight", weight]
        assert inline("sample", *bank, *more, "--output", output) == 0
        found[weight] = away(pixels(output, 3), labels(output))
    drawn = tmp_path / "bank-1"
    assert labels(drawn) == [0, 1] * 6, "each prompt of the bank with each class"
    assert json.loads((drawn / "classes.json").read_text()) == list(CLASSES)
    assert lines(drawn)[0]["lora"][0]["file"] == "lora_unet.safetensors"
    assert found[1] < 0.5 * found[0], "what it learned is drawn"

    config = ["--config", CONFIGS / "augment-lora.yaml", "--input", shards, "--model.name", taught_folder]
    looks = [
        "--features.name",
        "pixels",
        "--pairing.threshold",
        -1,
        "--pairing.upper",
        1,
        "--pairing.hash",
        "null",
    ]
    more = [*CHAIN, *looks, "--model.lora", weights, "--fusion.per_pair", 1, "--quality.redraw", 1, *JUDGE]
    assert inline("augment", *config, *more, "--output", tmp_path / "more") == 0
    report = json.loads((tmp_path / "more/report.json").read_text())
    assert len(read(tmp_path / "more")) == report["samples"]
    assert report["samples"] > 0

    judged = [
        "--mode",
        "samples",
        "--input",
        drawn / "shards",
        "--reference",
        shards,
        "--features.name",
        "pixels",
    ]
    assert inline("evaluate", *judged, *JUDGE, "--output", tmp_path / "judged") == 0
    report = json.loads((tmp_path / "judged/report.json").read_text())
    assert sum(report["verdicts"]["all"].values()) == 12
