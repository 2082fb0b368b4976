"""The page's own endpoints, as a browser asks them."""

import json
import time

from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.jobs.studio.config import Config
from noiseweave.jobs.studio.features import Features

HOST = {"host": "127.0.0.1:7860"}
CHINESE = {**HOST, "accept-language": "zh-CN"}
USUAL = (
    "linear",
    0.5,
    0.25,
    0.25,
    0.25,
    0.25,
    "everywhere",
    "none",
    0.5,
    8,
    1,
    "independent",
    0,
    0,
    "",
    "",
    0,
    0,
)
"""Mode, ratio, weights, region, edit, strength, steps, skip, noise, fresh noise, seed, prompts."""

PAIRS = {
    **{"threshold": 0.5, "upper": 0.97, "top_k": 5, "max_uses": 4, "quota": "balanced", "per_class": 20},
    **{"draw": "range", "classes": "same_class", "max_pairs": 0},
}
FUSE = {
    **{"mode": "linear", "ratio": 0.3, "region": "everywhere", "steps": 4, "skip": 1, "noise": "shared"},
    **{"variation": 0.1, "seed": 7, "source": "", "target": "", "guidance_source": 0, "guidance_target": 0},
}


class Client:
    """A browser's requests, each page with a name of its own."""

    def __init__(self, site, headers=HOST):
        from starlette.testclient import TestClient

        self.client = TestClient(site, base_url="http://127.0.0.1:7860", headers=headers)
        self.config = self.client.get("/config").json()

    def upload(self, data, name="x.png"):
        answer = self.client.post("/gradio_api/upload", files={"files": (name, data)})
        return answer.json()[0] if answer.status_code == 200 else answer

    def ask(self, name, data, page="a"):
        (number,) = (d["id"] for d in self.config["dependencies"] if d["api_name"] == name)
        body = {"data": data, "fn_index": number, "session_hash": page}
        assert self.client.post("/gradio_api/queue/join", json=body).status_code == 200
        with self.client.stream("GET", f"/gradio_api/queue/data?session_hash={page}") as lines:
            for line in lines.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed":
                    return message["output"].get("data"), message["success"]

    def fuse(self, files, *values, page="a", of="fuse"):
        files = [{"path": file, "meta": {"_type": "gradio.FileData"}} for file in files]
        places = [*files, *[None] * (4 - len(files))]
        data, good = self.ask(of, [*places, *(values or USUAL)], page)
        assert good, data
        return data

    def fetched(self, file):
        return self.client.get(file["url"])


def table_of(features):
    features.begin()
    while features.busy:
        time.sleep(0.01)
    if features.error:
        raise features.error
    return features.table


def read_table(place, name="digits-ddpm", **more):
    config = Config(input=str(place), output="out", model=ModelConfig(name=name), **more)
    return table_of(Features(config, None, lambda work: work()))
