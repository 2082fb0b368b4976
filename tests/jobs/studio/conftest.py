import pytest
from augments import digits as all_digits
from fusing import png
from pages import HOST, Client

from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.jobs.studio.config import Config
from noiseweave.jobs.studio.live import Live


@pytest.fixture
def made(digits, monkeypatch):
    """(further options) -> the page of digits-ddpm, its uploads in a folder of their own."""
    (digits / "uploads").mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(digits / "uploads"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")

    def make(name="digits-ddpm", headers=HOST, **more):
        from noiseweave.jobs.studio import page
        from noiseweave.jobs.studio.running import Runs

        live = Live(Config(model=ModelConfig(name=name), output="out", **more), str(digits / "uploads"))
        runs.append(Runs("out"))
        client = Client(page.app(live, runs[-1]), headers)
        client.live, client.runs = live, runs[-1]
        return client

    runs = []
    yield make
    for one in runs:
        one.close()


@pytest.fixture
def client(made):
    client = made()
    with client.client:
        yield client


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Digits in ten class folders, one file that is no picture, and one without a class."""
    monkeypatch.chdir(tmp_path)
    for i, (image, label) in enumerate(zip(*all_digits(), strict=True)):
        path = tmp_path / "in" / f"class {label}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image[..., 0]))
    (tmp_path / "in" / "class 0" / "broken.png").write_bytes(b"no picture")
    return tmp_path / "in"
