"""Classes of pictures are a model's by their names."""

import pytest

from noiseweave.engine.networks import classes as model_classes


@pytest.mark.parametrize(
    ("classes", "names", "known", "known_names", "wanted"),
    [
        (3, (), 3, (), (0, 1, 2)),
        (4, (), 2, (), (0, 1, 2, 2)),  # what the model does not know is no class
        (3, ("rose", "oak", "tulip"), 2, ("tulip", "rose"), (1, 2, 0)),
        (3, ("rose",), 2, ("tulip", "rose"), (1, 2, 2)),  # shards with fewer names than labels
        (2, ("a", "b"), 2, (), (0, 1)),
        (0, (), 5, (), ()),
        (3, ("Rose", "daisies", "Sweet_Pea"), 3, ("sweet peas", "roses", "daisy"), (1, 2, 0)),
        (3, ("glass", "ss", "bus"), 2, ("glas", "bus"), (2, 2, 1)),
        (1, ("Rose",), 2, ("rose", "roses"), (2,)),  # either may be meant
        (2, ("rose", "roses"), 2, ("roses", "rose"), (1, 0)),
    ],
)
def test_classes_are_matched_by_name_else_by_number(classes, names, known, known_names, wanted):
    assert model_classes.rows(classes, names, known, known_names) == wanted
