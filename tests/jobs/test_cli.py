"""The command's frame: quick help, one line for each mistake, YAML and flags alike."""

import importlib.util
import subprocess
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from flows import DIGITS

from noiseweave import __version__
from noiseweave.cluster.storage import StorageError
from noiseweave.engine.fusion.recipes import MODES
from noiseweave.jobs import arguments as jobs_arguments
from noiseweave.jobs import cli

THERE = [job for job in jobs_arguments.JOBS if importlib.util.find_spec(f"noiseweave.jobs.{job}.job")]
CONFIGS = Path(__file__).parents[2] / "configs"
HEAVY = ("torch", "ray", "diffusers", "transformers", "sklearn", "torchvision", "accelerate")


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Part.

    Args:
        depth: how deep.
    """

    depth: int = 1

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"inner.depth={self.depth}: 1 or more,\nreally")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A job for tests.

    Args:
        output: where to.
        sizes: some numbers.
        inner: nested.
    """

    output: str
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = field(default_factory=Inner)


@pytest.fixture
def job(monkeypatch):
    """A job of our own in the command: records its config, does what ``act`` says."""
    module = types.ModuleType("noiseweave.jobs.probe.job")
    module.Config, module.seen, module.act = Config, [], lambda: 0
    module.run = lambda config: (module.seen.append(config), module.act())[1]
    for part in ("", ".config", ".job"):
        monkeypatch.setitem(sys.modules, f"noiseweave.jobs.probe{part}", module)
    monkeypatch.setitem(jobs_arguments.JOBS, "probe", "a job for tests")
    return module


def failed(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("option", ["--help", "--help_all"])
@pytest.mark.parametrize("name", THERE)
def test_help_needs_nothing_heavy(name, option):
    code = (
        "import sys\nfrom noiseweave.jobs import cli\n"
        f"try: cli.main([{name!r}, {option!r}])\n"
        "except SystemExit as e: assert e.code == 0, e.code\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "HEAVY []" in out
    assert "--config" in out
    assert jobs_arguments.JOBS[name].split()[0] in out


@pytest.mark.parametrize("name", THERE)
def test_each_job_refuses_unknown_keys_in_one_line(name, tmp_path, capsys):
    assert "nonsense" in failed(capsys, name, "--nonsense", "1")
    (tmp_path / "a.yaml").write_text("nonsense: 1\n")
    assert "nonsense" in failed(capsys, name, "--config", str(tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (
            "augment --fusion.mode linear",
            "noiseweave augment has no option --fusion.mode; did you mean --fusion.modes?",
        ),
        (
            "augment --theshold 0.5",
            "noiseweave augment has no option --theshold; did you mean --pairing.threshold?",
        ),
        (
            "fuse a b --region.mask m",
            "noiseweave fuse has no option --region.mask; did you mean --fusion.region.mask?",
        ),
        ("augment --xyzzy 1", "noiseweave augment has no option --xyzzy"),
        ("augment -x", "noiseweave augment has no option -x"),
        ("augment --config a.yaml", "a.yaml: no option 'fusion.mode'; did you mean fusion.modes?"),
        ("augment --config b.yaml", "b.yaml: fusion.modes: 'crosfade' is none of linear, cross_fade"),
        ("augment --fusion.modes linear,crosfade", "is none of linear, cross_fade, feature_selective"),
        ("augment --fusion.modes linear,crosfade", "did you mean cross_fade?"),
        (
            "train input",
            "noiseweave train has no place for 'input': options begin with --; did you mean --input?",
        ),
        ("evaluate usefulnes", "did you mean usefulness?"),
        ("agment", "did you mean augment?"),
        ("submit agment", "did you mean augment?"),
    ],
)
def test_did_you_mean(line, error, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("input: a\noutput: b\nfusion: {mode: linear}\n")
    (tmp_path / "b.yaml").write_text("input: a\noutput: b\nfusion: {modes: [linear, crosfade]}\n")
    assert error in failed(capsys, *line.split())


def test_a_method_of_usefulness_has_no_such_option(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("methods: {real: {}, mixed: {made: fusion, fusion: {mode: linear}}}\n")
    words = ["--input", "a", "--test", "b", "--output", "c", "--config", str(tmp_path / "a.yaml")]
    error = "methods.mixed: no option 'fusion.mode'; did you mean fusion.modes?"
    assert error in failed(capsys, "evaluate", "usefulness", *words)


@pytest.mark.parametrize(
    "line",
    [
        "augment --input a --output b",
        "augment --input a --output b --model.precision bf16",
        "augment --input a --output b --model.name=",
        "fuse a b --output c",
        "inpaint --image a --mask b --output c",
        "sample --output a",
        "evaluate --mode reconstruction --input a --output b",
        "evaluate --features.name unet --input a --reference b --output c",
        "evaluate --mode samples --features.name unet --input a --reference b --output c",
    ],
)
def test_no_model_is_taken_by_itself(line, capsys):
    error = failed(capsys, *line.split())
    assert error.startswith(
        "error: model.name: no model is named; give a shipped one (digits-ddpm, flowers-flow), "
    )
    assert "a folder that noiseweave train or diffusers' save_pretrained wrote, or a hub id" in error


def test_lora_takes_no_model_by_itself(capsys):
    for words in ("", "--precision bf16", "--model="):
        error = failed(capsys, *f"lora --input a --output b {words}".split())
        assert error.startswith(
            "error: model.name: no model is named; give a folder that diffusers' save_pretrained"
        )


@pytest.mark.parametrize(
    ("line", "name", "words"),
    [
        ("augment a --input b --output c --model.name m", "input", "a"),
        ("augment --input=b a --output c --model.name m", "input", "a"),
        ("augment a --input_dir b --output c --model.name m", "input", "a"),
        ("fuse a b --images c --output d --model.name m", "images", "a b"),
        ("sample hello --prompts there --model.name m --output d", "prompts", "hello"),
        ("describe m --model n", "model", "m"),
        ("unpack a --input b --output c", "input", "a"),
        ("report a --folder b", "folder", "a"),
        ("studio a --input b --model.name m", "input", "a"),
    ],
)
def test_what_is_given_without_a_flag_and_with_one_is_refused(line, name, words, capsys):
    error = failed(capsys, *line.split())
    assert error.splitlines() == [
        f"error: {name}: given twice, as '{words}' and with --{name}; leave one of the two out"
    ]


@pytest.mark.parametrize("mode", ["sets", "pairs", "samples"])
def test_figures_that_need_no_model_ask_for_none(mode):
    words = ["--mode", mode, "--input", "a", "--reference", "b", "--output", "c"]
    assert jobs_arguments.parse("evaluate", words).model.name == ""


@pytest.mark.parametrize("job", ["augment", "fuse", "inpaint", "sample"])
def test_the_configs_name_their_model(job):
    for path in CONFIGS.glob("*.yaml"):
        given = yaml.safe_load(path.read_text())
        needed = {"input": "a"} if job == "augment" else {}
        if path.stem.split("-")[0] == job:
            words = [f"--{k}={v}" for k, v in {"output": "b", **needed}.items()]
            assert (
                jobs_arguments.parse(job, ["--config", str(path), *words]).model.name
                == given["model"]["name"]
            )


def test_names_that_a_user_makes_up_are_no_mistakes(tmp_path):
    (tmp_path / "a.yaml").write_text("cluster: {labels: {zone: a}}\n")
    words = [*DIGITS, "--input", "a", "--output", "b", "--config", str(tmp_path / "a.yaml")]
    assert jobs_arguments.parse("augment", words).cluster.labels == {"zone": "a"}


@pytest.mark.parametrize(
    ("words", "modes", "ratio"),
    [
        ("", MODES, (0.3, 0.7)),
        ("--fusion.modes linear,cross_fade --fusion.ratio 0.3,0.6", ("linear", "cross_fade"), (0.3, 0.6)),
        ("--fusion.modes [linear,cross_fade] --fusion.ratio 1", ("linear", "cross_fade"), (1, 1)),
        ("--fusion_mode linear --fusion_ratio 0.5", ("linear",), (0.5, 0.5)),
        ("--fusion.modes random", MODES, (0.3, 0.7)),
        ("--fusion.modes all", MODES, (0.3, 0.7)),
    ],
)
def test_how_pictures_are_fused(words, modes, ratio):
    config = jobs_arguments.parse("augment", [*DIGITS, "--input=a", "--output=b", *words.split()])
    assert (config.fusion.choices, config.fusion.bounds) == (modes, ratio)


def test_older_spellings():
    words = "--input_dir=a --output_dir=b --similarity_threshold=0.6 --max_pairs=100"
    config = jobs_arguments.parse("augment", [*DIGITS, *words.split()])
    assert (config.input, config.output) == ("a", "b")
    assert (config.pairing.threshold, config.pairing.max_pairs) == (0.6, 100)
    words = "--image_path a.png --output o --img_size 64 --train_steps 30 --batch_size 8 --lr 1e-4"
    config = jobs_arguments.parse("train", words.split())
    assert (config.input, config.data.size, config.steps, config.batch) == ("a.png", 64, 30, 8)
    assert config.optimizer.lr == 1e-4


def test_numbers_and_choices_are_listed_with_commas():
    base = ["--input", "a", "--output", "b", "--reference", "c"]
    assert jobs_arguments.parse("evaluate", [*base, "--metrics", "fd,kid"]).metrics == ("fd", "kid")
    assert jobs_arguments.parse("evaluate", [*base, "--metrics", "fd"]).metrics == ("fd",)
    assert jobs_arguments.parse("evaluate", [*base, "--metrics", "null"]).metrics is None
    config = jobs_arguments.parse("fuse", [*DIGITS, "a", "b", "--output", "o", "--weights", "1,3"])
    assert config.weights == (1, 3)
    words = [*DIGITS, "a", "b", "--output", "o", "--prompt.source", "a cat, asleep"]
    assert jobs_arguments.parse("fuse", words).prompt.source == "a cat, asleep"


def test_flags_go_before_yaml_and_yaml_before_defaults(job, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("output: y\nsizes: [5]\ninner:\n  depth: 7\n")
    assert cli.main(["probe", "--config", str(path), "--output", "f"]) == 0
    assert cli.main(["probe", "--output", "f", "--inner.depth", "3", "--sizes", "[8, 9]"]) == 0
    assert job.seen == [
        Config(output="f", sizes=(5,), inner=Inner(depth=7)),
        Config(output="f", sizes=(8, 9), inner=Inner(depth=3)),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "output"),
        (["--output"], "expected one argument"),
        (["--output", "x", "--nope", "1"], "nope"),
        (["--output", "x", "--inner.nope", "1"], "nope"),
        (["--output", "x", "--inner.depth", "0"], "inner.depth=0: 1 or more, really"),
        (["--output", "x", "--inner.depth", "deep"], "inner.depth"),
        (["--output", "x", "--sizes", "[a]"], "sizes"),
        (["--config", "{d}/none.yaml"], "none.yaml"),
        (["--config", "{d}"], "{d}"),
        (["--config", "{d}/unknown.yaml"], "nope"),
        (["--config", "{d}/nested.yaml"], "nope"),
        (["--config", "{d}/wrong.yaml"], "inner.depth=-4: 1 or more, really"),
        (["--config", "{d}/broken.yaml"], ""),
        (["--config", "{d}/list.yaml"], ""),
        (["--config", "{d}/empty.yaml"], ""),
        (["--config", "{d}/binary.yaml"], ""),
    ],
)
def test_a_mistake_is_one_line(job, arguments, words, tmp_path, capsys):
    files = {
        "unknown": b"output: x\nnope: 1\n",
        "nested": b"output: x\ninner: {nope: 1}\n",
        "wrong": b"output: x\ninner: {depth: -4}\n",
        "broken": b"output: [x\n",
        "list": b"[1, 2]\n",
        "empty": b"",
        "binary": b"\xff\xfe\x00",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_bytes(text)
    error = failed(capsys, "probe", *(a.format(d=tmp_path) for a in arguments))
    assert words.format(d=tmp_path) in error
    assert job.seen == []


def test_no_job_of_that_name(capsys):
    assert "no job 'weave'; jobs are pack, " in failed(capsys, "weave")


def test_usage_and_version(capsys):
    assert cli.main([]) == 2
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {job}" in out for job in jobs_arguments.JOBS)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"noiseweave {__version__}\n"


@pytest.mark.parametrize("code", [0, 1])
def test_the_exit_code_is_the_jobs(job, code):
    job.act = lambda: code
    assert cli.main(["probe", "--output", "x"]) == code


def throw(error: BaseException):
    raise error


def test_what_run_raises(job, capsys, monkeypatch):
    job.act = lambda: throw(ValueError("output='x':\n  not there"))
    assert failed(capsys, "probe", "--output", "x") == "error: output='x': not there\n"
    job.act = lambda: throw(PermissionError("no"))
    assert failed(capsys, "probe", "--output", "x") == "error: no\n"
    job.act = lambda: throw(StorageError("/x cannot be written:\n  full"))
    assert cli.main(["probe", "--output", "x"]) == 1
    assert capsys.readouterr().err == "error: /x cannot be written: full\n"
    job.act = lambda: throw(KeyboardInterrupt())
    assert cli.main(["probe", "--output", "x"]) == 130
    job.act = lambda: throw(RuntimeError("a bug keeps its traceback"))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["probe", "--output", "x"])
    monkeypatch.setenv("NOISEWEAVE_DEBUG", "1")
    job.act = lambda: throw(ValueError("with its traceback"))
    with pytest.raises(ValueError, match="with its traceback"):
        cli.main(["probe", "--output", "x"])


def test_print_config_is_a_config(job, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["probe", "--output", "x", "--inner.depth", "4", "--print_config"])
    assert stop.value.code == 0
    (tmp_path / "a.yaml").write_text(capsys.readouterr().out)
    assert cli.main(["probe", "--config", str(tmp_path / "a.yaml")]) == 0
    assert job.seen == [Config(output="x", inner=Inner(depth=4))]


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "noiseweave", "--version"], capture_output=True, text=True)
    assert done.stdout == f"noiseweave {__version__}\n"


def test_a_switch_needs_no_value():
    base = [*DIGITS, "--input", "in", "--output", "out"]
    assert jobs_arguments.parse("augment", [*base, "--overwrite"]).overwrite
    assert jobs_arguments.parse(
        "augment", [*base, "--samples.copy_original", "--seed", "3"]
    ).samples.copy_original
    assert not jobs_arguments.parse("augment", ["--overwrite", "false", *base]).overwrite


def test_an_option_of_several_words_takes_that_many():
    base = [*DIGITS, "--output", "out"]
    ends = ("a cat", "-3: null")
    for words in (["--interpolate", *ends, *base], [*base, "--frames", "3", "--interpolate", *ends]):
        assert jobs_arguments.parse("sample", words).interpolate == ends
    config = jobs_arguments.parse("sample", ["--interpolate", "a", "b", "c", *base, "--overwrite", "d"])
    assert (config.interpolate, config.prompts, config.overwrite) == (("a", "b"), ("c", "d"), True)
    assert jobs_arguments.parse("sample", ['--interpolate=["a", "b"]', *base]).interpolate == ("a", "b")


@pytest.mark.parametrize("words", [["a"], [], ["a", "--frames", "3"], ["--frames", "3"]])
def test_too_few_words_are_counted(words, capsys):
    given = len([w for w in words[:1] if w == "a"])
    error = failed(capsys, "sample", "--output", "o", "--interpolate", *words)
    assert f"--interpolate: 2 words are needed, {given} given" in error


def test_several_words_in_yaml(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "model: {name: m}\noutput: out\ninterpolate: [a, b]\nlabels: '3'\nprompts: ['3', 'null']\n"
    )
    config = jobs_arguments.parse("sample", ["--config", str(tmp_path / "a.yaml")])
    assert (config.interpolate, config.labels, config.prompts) == (("a", "b"), "3", ("3", "null"))
    assert jobs_arguments.parse("sample", ["4", "--config", str(tmp_path / "a.yaml")]).prompts == ("4",)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("sample-*.yaml")), ids=lambda p: p.stem)
def test_the_configs_of_sample_hold(path):
    assert jobs_arguments.parse("sample", ["--config", str(path)]).output.startswith("out/")


def test_every_job_on_a_cluster_has_its_address_in_short():
    config = jobs_arguments.parse(
        "augment", [*DIGITS, "--input", "a", "--output", "b", "--address", "head:6379"]
    )
    assert config.cluster.address == "head:6379"
    labels = ["--cluster.labels", '{"market-type": "!spot"}', "--cluster.accelerator=H100"]
    config = jobs_arguments.parse("sample", [*DIGITS, "--output", "b", "--address=local", *labels])
    assert (config.cluster.address, config.cluster.accelerator) == ("local", "H100")
    assert config.cluster.labels == {"market-type": "!spot"}


def test_the_input_of_augment_needs_no_flag():
    config = jobs_arguments.parse("augment", ["my/photos", "--model.name", "a", "--output", "o"])
    assert (config.input, config.output) == ("my/photos", "o")
