"""Code that comes with a model is never run: whatever picks its class by what a folder says is told so."""

import ast
from pathlib import Path

import noiseweave

PICKS = (
    "Auto",
    "auto",
    "DiffusionPipeline",
    "pipeline",
)  # transformers' Auto classes, diffusers' generic pipelines


def loads(path: Path) -> list[tuple[str, ast.Call]]:
    """(what is called, the call) of each from_pretrained in a file."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [
        (ast.unparse(call.func), call)
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "from_pretrained"
    ]


def forbids(call: ast.Call) -> bool:
    return any(
        k.arg == "trust_remote_code" and isinstance(k.value, ast.Constant) and k.value.value is False
        for k in call.keywords
    )


def test_classes_that_a_folder_may_choose_never_run_its_code():
    files = Path(noiseweave.__file__).parent.rglob("*.py")
    found = [(path.name, name, call) for path in files for name, call in loads(path)]
    picking = [(file, name, call) for file, name, call in found if name.startswith(PICKS)]
    assert len(picking) >= 3, "nothing to look at: the test shows nothing"
    assert [(file, name) for file, name, call in picking if not forbids(call)] == []
    source = "".join(path.read_text() for path in Path(noiseweave.__file__).parent.rglob("*.py"))
    assert "trust_remote_code=True" not in source
