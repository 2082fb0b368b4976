"""A browser's requests to Studio's page, without a browser."""

import json

import numpy as np
from fusing import png

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
    *(None, None, None, None),
    None,
)
"""Mode, ratio, weights, region, edit, strength, steps, skip, noise, fresh noise, seed, prompts, classes, painting."""


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


REPAIR = ("black", 2, 7, False, 4, 2, 2, 1, 1, "", "", 0, 1, 1, 1)
"""Mask mode, variants, seed, crop to mask, padding, feather, steps, strength, resample, prompts, guidance, LoRAs."""


def file(path):
    return path and {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "mine.png"}


def repaired(client, picture, mask=None, *values, layers=(), of="repair", page="a"):
    painted = {"background": None, "layers": [file(path) for path in layers], "composite": None, "id": "x"}
    data, good = client.ask(of, [file(picture), painted, file(mask), *(values or REPAIR)], page)
    assert good, data
    return data


def stroke(size=(256, 256)):
    """What a browser sends of a stroke over rows 64 to 128, columns 64 to 160 of 256 each."""
    layer_HW4 = np.zeros((*size, 4), np.uint8)
    layer_HW4[64:128, 64:160] = (255, 45, 85, 255)
    return png(layer_HW4)


SAMPLE = ([], "", "", 3, 0, 2, 5, 2)
"""Classes, prompts, negative prompt, count, guidance, steps, seed, pictures on the way."""
