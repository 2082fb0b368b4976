import pytest
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

        live = Live(Config(model=ModelConfig(name=name), output="out", **more), str(digits / "uploads"))
        client = Client(page.app(live), headers)
        client.live = live
        return client

    return make


@pytest.fixture
def client(made):
    client = made()
    with client.client:
        yield client
