"""Which pictures a text-to-image job draws: in which order, from which noise, and one line for each mistake."""

import pytest

from noiseweave.cluster import shards, storage
from noiseweave.jobs.sample import prompts as p


def texts(**values) -> list[str]:
    return [x.text for x in p.prompts_of(p.PromptValues(**values)).prompts]


def keys(**values) -> list[str]:
    return [x.key for x in p.prompts_of(p.PromptValues(**values)).prompts]


@pytest.fixture
def file(tmp_path):
    """Text or bytes -> the name of a file with it."""

    def write(content, name="prompts.txt") -> str:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path / name)

    return write


def test_variants_of_a_prompt_differ_in_their_noise_alone():
    found = p.prompts_of(p.PromptValues(prompts=("a cat", "a dog"), count=3, negative="blurry"))
    assert len(found) == 6
    assert [found[i].text for i in range(6)] == ["a cat"] * 3 + ["a dog"] * 3
    assert len({x.key for x in found.prompts}) == 6
    assert {x.negative for x in found.prompts} == {"blurry"}
    assert (found.labels[3], found.across, found.skipped) == ("a dog", 3, {})
    assert keys(prompts=("a cat",)) == [found[0].key]  # the first variant is what no count draws


def test_a_line_added_changes_no_other_picture_and_equal_lines_are_variants(file):
    before = p.prompts_of(p.PromptValues(prompts_file=file("a cat\na dog\n"))).prompts
    after = p.prompts_of(p.PromptValues(prompts_file=file("a bird\na cat\na cat\na dog\n"))).prompts
    assert [after[1], after[3]] == before
    assert after[2].text == "a cat"
    assert after[2].key != after[1].key
    assert sorted(keys(prompts=("a cat", "a cat"), count=2)) == sorted(keys(prompts=("a cat",), count=4))


def test_lines_of_a_file(file):
    content = "\ufeff# heading\r\n  a cat  \r\n\r\n   # not this\r\na dog # 3, 日本\r\n"
    assert texts(prompts_file=file(content)) == ["a cat", "a dog # 3, 日本"]
    storage.write("memory://prompts-test/p.txt", b"far away\n")
    assert texts(prompts_file="memory://prompts-test/p.txt") == ["far away"]


def test_an_interpolation_changes_the_words_alone():
    found = p.prompts_of(p.PromptValues(interpolate=("a cat", "a dog"), frames=5, negative="blurry"))
    assert [x.mix for x in found.prompts] == [0, 0.25, 0.5, 0.75, 1]
    assert {(x.text, x.other, x.key, x.negative) for x in found.prompts} == {
        ("a cat", "a dog", found[0].key, "blurry")
    }
    assert found.labels == [
        "a cat",
        "0.75 a cat + 0.25 a dog",
        "0.50 a cat + 0.50 a dog",
        "0.25 a cat + 0.75 a dog",
        "a dog",
    ]
    assert found.across == 5


def test_variants_of_an_interpolation_are_whole_rows():
    found = p.prompts_of(p.PromptValues(interpolate=("a", "b"), frames=3, count=2))
    assert [x.mix for x in found.prompts] == [0, 0.5, 1] * 2
    assert [len({x.key for x in found.prompts[i : i + 3]}) for i in (0, 3)] == [1, 1]
    assert found[0].key != found[3].key
    assert len(found.labels) == 6


def test_styles_cross_the_contents_and_keep_their_noise(file):
    styles = file("oil painting\n{} as a {wooden} toy\n# no\nposter of {content}, {content}!\n", "styles.txt")
    found = p.prompts_of(p.PromptValues(prompts=("a cat", "a {} dog"), styles=styles, count=2))
    assert [x.text for x in found.prompts[:3]] == [
        "a cat, oil painting",
        "a cat as a {wooden} toy",
        "poster of a cat, a cat!",
    ]
    assert found[7].text == "a {} dog as a {wooden} toy"
    assert found.labels[0] == "a cat, oil painting"
    assert (len(found), found.across) == (12, 3)
    rows = [{x.key for x in found.prompts[i : i + 3]} for i in range(0, 12, 3)]
    assert [len(row) for row in rows] == [1, 1, 1, 1]
    assert len(set.union(*rows)) == 4
    assert [min(row) for row in rows] == keys(prompts=("a cat", "a {} dog"), count=2)  # as without a style


@pytest.fixture
def captioned(tmp_path):
    """Two shards: 5 samples with a picture, 3 of them with a caption; one without a picture, one torn label."""
    first = [
        ("a", {"png": b"x", "txt": b"  a cat\nin the rain "}),
        ("b", {"png": b"x"}),
        ("c", {"png": b"x", "json": b'{"caption": "a dog"}'}),
        ("d", {"txt": b"words alone"}),
    ]
    second = [
        ("a", {"png": b"x", "txt": b"a cat in the rain"}),
        ("b", {"png": b"x", "txt": b" \n"}),
        ("c", {"png": b"x", "txt": b"labelled", "cls": b"torn"}),
    ]
    for name, samples in (("s-0.tar", first), ("s-1.tar", second)):
        (tmp_path / name).write_bytes(shards.pack(samples))
    return str(tmp_path)


def test_captions_in_the_order_of_the_shards(captioned):
    found = p.prompts_of(p.PromptValues(captions=captioned))
    assert [x.text for x in found.prompts] == ["a cat in the rain", "a dog", "a cat in the rain"]
    assert len({x.key for x in found.prompts}) == 3
    assert found.skipped == {"bad_label": 1, "no_caption": 2, "no_picture": 1}
    assert texts(captions=f"{captioned}/s-{{1..1}}.tar", count=2) == ["a cat in the rain"] * 2


def test_a_bank_of_prompts_is_filled_with_each_class(file):
    """Class after class of each line; a class's pictures are the same beside other classes."""
    bank = file("a photo of a {label}\na {label} in a {pot}")
    found = p.prompts_of(p.PromptValues(prompts_file=bank, classes=("rose", "tulip"), count=2))
    wanted = ["a photo of a rose", "a photo of a tulip", "a rose in a {pot}", "a tulip in a {pot}"]
    assert [x.text for x in found.prompts] == [text for text in wanted for _ in range(2)]
    assert found.classes == (0, 0, 1, 1)
    alone = p.prompts_of(p.PromptValues(prompts_file=bank, classes=("tulip",), count=2)).prompts
    assert alone == [x for x in found.prompts if "tulip" in x.text]
    styled = p.PromptValues(
        prompts=("a {label}",), classes=("x", "y"), styles=file("ink\nchalk", "styles.txt")
    )
    assert p.prompts_of(styled).classes == (0, 0, 1, 1)


def test_names_of_classes_come_from_a_file_or_from_shards(file, tmp_path):
    assert p.class_names_of(file("rose\n# no\ntulip", "names.txt")) == ("rose", "tulip")
    storage.write(str(tmp_path / "in/s-0.tar"), shards.pack([("a", {"png": b"x"})]))
    with pytest.raises(ValueError, match=r"have no classes\.json; give a .txt"):
        p.class_names_of(str(tmp_path / "in"))
    storage.write_json(str(tmp_path / "classes.json"), ["a", "b"])
    assert p.class_names_of(str(tmp_path / "in")) == ("a", "b")


def test_captions_take_styles_too(captioned, file, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "s-0.tar").rename(tmp_path / "in/s.tar")
    found = texts(captions=str(tmp_path / "in"), styles=file("ink\nchalk"))
    assert found == ["a cat in the rain, ink", "a cat in the rain, chalk", "a dog, ink", "a dog, chalk"]


def test_the_same_values_mean_the_same_list(captioned):
    assert p.prompts_of(p.PromptValues(captions=captioned, count=2)) == p.prompts_of(
        p.PromptValues(captions=captioned, count=2)
    )


WRONG = {
    "nothing": ({}, "one of prompts, prompts_file, captions, interpolate is needed; given: none"),
    "two": ({"prompts": ("a",), "captions": "x"}, "given: prompts, captions"),
    "empty text": ({"prompts": ("a", " ")}, r"prompts=\['a', ' '\]: a text is empty"),
    "empty end": ({"interpolate": ("a", "")}, r"interpolate=\['a', ''\]: a text is empty"),
    "one frame": ({"interpolate": ("a", "b"), "frames": 1}, "frames=1: 2 or more"),
    "no count": ({"prompts": ("a",), "count": 0}, "count=0: 1 or more"),
    "styled mix": ({"interpolate": ("a", "b"), "styles": "s.txt"}, r"styles='s\.txt': not together"),
    "no file": ({"prompts_file": "none.txt"}, r"prompts_file 'none\.txt': cannot be read: No such file"),
    "a folder": ({"prompts_file": "."}, r"prompts_file '\.': cannot be read"),
    "no styles": ({"prompts": ("a",), "styles": "none.txt"}, r"styles 'none\.txt': cannot be read"),
    "no protocol": ({"prompts_file": "nosuch://x"}, "prompts_file 'nosuch://x': cannot be read"),
    "no shards": ({"captions": "none"}, "none"),
    "classes of captions": ({"captions": "x", "classes": ("a",)}, "classes: with prompts or prompts_file"),
    "no label": ({"prompts": ("a {label}", "b"), "classes": ("a",)}, "prompt 'b': each prompt needs {label}"),
    "no classes": ({"prompts": ("a {label}",)}, "prompt 'a {label}': {label} needs classes"),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_mistake_is_one_clear_line(how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values, words = WRONG[how]
    with pytest.raises(ValueError, match=words) as error:
        p.prompts_of(p.PromptValues(**values))
    assert "\n" not in str(error.value)


def test_files_without_prompts_are_named(file, tmp_path):
    with pytest.raises(ValueError, match=r"prompts_file '.*empty\.txt': no line in it"):
        p.prompts_of(p.PromptValues(prompts_file=file("\n# a\n", "empty.txt")))
    with pytest.raises(ValueError, match=r"prompts_file '.*photo\.png': not UTF-8 text \(byte 0\)"):
        p.prompts_of(p.PromptValues(prompts_file=file(b"\x89PNG", "photo.png")))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/s.tar").write_bytes(shards.pack([("a", {"png": b"x"})]))
    with pytest.raises(ValueError, match=r"captions '.*in': no sample there has a caption"):
        p.prompts_of(p.PromptValues(captions=str(tmp_path / "in")))
