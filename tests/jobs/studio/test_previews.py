"""Pictures that browsers cannot show are shown as PNG, and their files stay what they are."""

import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="no Gradio here: pip install 'noiseweave[studio]'")
IMAGE_HWC = np.full((9, 2000, 3), (200, 30, 90), np.uint8)


def encoded(form, **how):
    stream = io.BytesIO()
    Image.fromarray(IMAGE_HWC).save(stream, form, **how)
    return stream.getvalue()


def seen(client, path, dest="image"):
    return client.client.get(f"/gradio_api/file={path}", headers={"sec-fetch-dest": dest})


@pytest.mark.parametrize("form", ["TIFF", "HEIF"])
def test_a_picture_no_browser_shows_is_shown_as_png_and_downloaded_as_it_is(client, form):
    if form == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    data = encoded(form)
    path = client.upload(data, "phone.picture")
    answer = seen(client, path)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-security-policy"]
    shown = Image.open(io.BytesIO(answer.content))
    assert (shown.format, shown.size) == ("PNG", (1536, 7))
    assert np.abs(np.asarray(shown).astype(int) - IMAGE_HWC[0, 0]).max() < 8
    for dest in ("document", "empty"):
        assert seen(client, path, dest).content == data


@pytest.mark.parametrize("data", [encoded("PNG"), encoded("JPEG"), b"II*\0 words", b"", encoded("TIFF")[:40]])
def test_what_a_browser_shows_or_nothing_can_is_the_file(client, data):
    assert seen(client, client.upload(data)).content == data


def test_a_picture_too_large_is_not_decoded_and_no_other_file_is_shown(made, digits):
    client = made(max_pixels=500)
    with client.client:
        data = encoded("TIFF")
        assert seen(client, client.upload(data)).content == data
        (digits / "mine.tif").write_bytes(data)
        for path in (
            digits / "mine.tif",
            digits / "uploads" / ".." / "mine.tif",
            digits / "uploads",
            "mine.tif",
        ):
            assert seen(client, path).status_code in (403, 404)
