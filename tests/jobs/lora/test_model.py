"""Which models lora takes, and what each of them refuses in one line."""

import pytest
import small_transformers
from loras import config_of

from noiseweave.jobs.lora.model import look


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """kind -> a small pipeline's folder."""
    root = tmp_path_factory.mktemp("models")
    made = {kind: small_transformers.flux(root / kind, kind) for kind in ("dev", "schnell", "fill")}
    others = {kind: getattr(small_transformers, kind)(root / kind) for kind in ("sd3", "qwen_image")}
    return made | others


@pytest.fixture
def seen(folders, kl_folder, tmp_path):
    """(kind, more options) -> what is known of a model."""

    def looked(kind, *more):
        folder = kl_folder if kind == "sd" else folders[kind]
        return look(config_of(tmp_path, folder, tmp_path / "out", *more))

    return looked


@pytest.mark.parametrize(
    ("kind", "holes", "multiple", "most", "guidance"),
    [
        ("sd", False, 16, None, 7.5),
        ("sd3", False, 16, 192, 7.0),
        ("dev", False, 16, None, 3.5),
        ("schnell", False, 16, None, 1.0),
        ("fill", True, 16, None, 30.0),
        ("qwen_image", False, 16, None, 4.0),
    ],
)
def test_what_a_model_takes_is_its_familys(seen, kind, holes, multiple, most, guidance):
    model = seen(kind)
    assert (model.sees_holes, model.multiple, model.most) == (holes, multiple, most)
    assert model.guidance == guidance
    assert seen(kind, "--validation.guidance", "1").guidance == 1


def test_the_words_hash_is_of_every_text_encoder(seen, folders):
    before = seen("sd3").words
    config = folders["sd3"] / "text_encoder_3" / "config.json"
    text = config.read_text()
    config.write_text(text + "\n")
    try:
        assert seen("sd3").words != before
    finally:
        config.write_text(text)


@pytest.mark.parametrize(
    ("kind", "words", "line"),
    [
        ("sd3", ["--lora.text_encoder"], "lora.text_encoder=True: false for a StableDiffusion3Pipeline"),
        ("fill", ["--lora.text_encoder"], "lora.text_encoder=True: false for a FluxFillPipeline"),
        ("dev", ["--objective.min_snr", "5"], "objective.min_snr=5.0: 0, as the model is a flow"),
        ("sd", ["--objective.logit_mean", "1"], "objective.logit_mean=1.0: 0, as the model is no flow"),
        ("sd", ["--objective.logit_std", "2"], "objective.logit_std=2.0: 1, as the model is no flow"),
        ("sd3", ["--objective.guidance", "2"], "objective.guidance=2.0: 1: it is no input of the network"),
        (
            "schnell",
            ["--objective.guidance", "2"],
            "objective.guidance=2.0: 1: it is no input of the network",
        ),
        (
            "schnell",
            ["--validation.guidance", "3"],
            "validation.guidance=3.0: 1, as the model was distilled without guidance",
        ),
        (
            "qwen_image",
            ["--validation.steps", "1"],
            "validation.steps=1: 2 or more, as the model's scheduler takes",
        ),
        ("dev", ["--lora.targets", '["to_z"]'], r"lora.targets='to_z': no linear .* of the transformer .*"),
        (
            "dev",
            ["--rank", "33"],
            r"lora.rank=33: at most 32, the width of transformer\.\S+, the narrowest layer",
        ),
    ],
)
def test_what_a_model_has_not_is_one_line(seen, kind, words, line):
    with pytest.raises(ValueError, match=f"^{line}$"):
        seen(kind, *words)
