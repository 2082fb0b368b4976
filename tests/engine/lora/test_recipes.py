"""Which choices are refused, each in one line that names the field."""

import pytest

from noiseweave.engine.lora.recipes import LoraObjective, LoraRecipe


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"rank": 0}, "lora.rank=0: 1 or more"),
        ({"alpha": 0.0}, "lora.alpha=0.0: above 0, or null for the rank"),
        ({"alpha": float("nan")}, "lora.alpha=nan: above 0, or null for the rank"),
        ({"dropout": 1.0}, r"lora.dropout=1.0: 0 \(off\) to below 1"),
        ({"targets": ()}, r"lora.targets=\(\): names of layers, each once, or null"),
        (
            {"targets": ("to_q", "to_q")},
            r"lora.targets=\('to_q', 'to_q'\): names of layers, each once, or null",
        ),
        ({"targets": ("",)}, r"lora.targets=\('',\): names of layers, each once, or null"),
        (
            {"method": "partial", "text_encoder": True},
            "lora.text_encoder=True: false with lora.method=partial",
        ),
    ],
)
def test_a_wrong_recipe_is_one_line(values, line):
    with pytest.raises(ValueError, match=f"^{line}$"):
        LoraRecipe(**values)


@pytest.mark.parametrize("field", ["min_snr", "noise_offset", "prior_weight"])
@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan")])
def test_a_wrong_objective_is_one_line(field, value):
    with pytest.raises(ValueError, match=rf"^objective\.{field}={value}: 0 \(off\) "):
        LoraObjective(**{field: value})


def test_alpha_is_the_rank_where_nothing_is_said():
    assert LoraRecipe(rank=8).scale == 1
    assert LoraRecipe(rank=8, alpha=4).scale == 0.5
    assert LoraRecipe(rank=8, alpha=4).strength == 4.0
