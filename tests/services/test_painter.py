"""A pipeline of diffusers behind ``/generate``: what it is given, by a pipeline that writes that down."""

import base64
import io

import pytest
from PIL import Image
from served import asked, spec

from sightline.negatives.diffusion import Diffusion
from sightline.services.bounds import Bounds
from sightline.services.build import build_service


class Made(dict):
    @property
    def images(self):
        return self["images"]


class Words:
    """Makes pictures from words; their red is the guidance."""

    def __init__(self):
        self.calls = []

    def __call__(self, prompt, num_inference_steps, generator, guidance_scale, width, height, max_sequence_length=77):
        told = {"steps": num_inference_steps, "size": (width, height), "tokens": max_sequence_length}
        self.calls.append({"prompts": prompt, "seeds": [one.initial_seed() for one in generator], **told})
        return Made(images=[Image.new("RGB", (width, height), (int(guidance_scale), 0, 0)) for _ in prompt])


class Box(Words):
    """Makes the white of a mask blue."""

    def __call__(self, prompt, image, mask_image, num_inference_steps, generator, guidance_scale, strength=1.0):
        self.calls.append({"strength": strength, "boxes": [mask.getbbox() for mask in mask_image]})
        blue = [Image.new("RGB", one.size, "blue") for one in image]
        return Made(images=[Image.composite(b, i, m) for b, i, m in zip(blue, image, mask_image, strict=True)])


def service(monkeypatch, pipeline, **options):
    made = lambda spec, kind: Diffusion(spec=spec, kind=kind, pipeline=pipeline)  # noqa: E731
    monkeypatch.setattr("sightline.services.painter.diffusion", made)
    return build_service(spec("image", model="folder", bounds=Bounds(company=0.05), **options))


def png(picture):
    held = io.BytesIO()
    picture.save(held, format="PNG")
    return base64.b64encode(held.getvalue()).decode()


def opened(reply):
    return Image.open(io.BytesIO(base64.b64decode(reply["image"])))


def test_pictures_with_equal_settings_are_made_together(monkeypatch):
    pipeline = Words()
    app = service(monkeypatch, pipeline)
    bodies = [
        {"prompt": "a", "seed": 1, "w": 32, "h": 16, "num_inference_steps": 3, "guidance_scale": 5},
        {"prompt": "b", "seed": 2, "w": 16, "h": 16, "num_inference_steps": 3, "guidance_scale": 9},
        {"prompt": "c", "seed": 3, "w": 32, "h": 16, "num_inference_steps": 3, "guidance_scale": 5},
        {"prompt": "d", "image": png(Image.new("RGB", (16, 16)))},
    ]
    replies = asked(app, *[("/generate", body) for body in bodies])
    assert [status for status, _ in replies] == [200, 200, 200, 422]
    assert [opened(reply).size for _, reply in replies[:3]] == [(32, 16), (16, 16), (32, 16)]
    assert [opened(reply).getpixel((0, 0))[0] for _, reply in replies[:3]] == [5, 9, 5]
    assert pipeline.calls == [
        {"prompts": ["a", "c"], "seeds": [1, 3], "steps": 3, "size": (32, 16), "tokens": 512},
        {"prompts": ["b"], "seeds": [2], "steps": 3, "size": (16, 16), "tokens": 512},
    ]
    assert "send neither image nor mask" in replies[3][1]["error"]["message"]


def test_a_box_is_painted_anew_where_the_mask_is_white(monkeypatch):
    pipeline = Box()
    app = service(monkeypatch, pipeline, makes="inpaint")
    white = Image.new("L", (32, 32))
    white.paste(255, (4, 8, 20, 16))
    corners = Image.new("L", (32, 32))
    corners.paste(255, (0, 0, 4, 4)), corners.paste(255, (20, 20, 24, 24))
    body = {"prompt": "a", "seed": 1, "image": png(Image.new("RGB", (32, 32), "red")), "strength": 0.5}
    replies = asked(app, *[("/generate", {**body, "mask": png(one)}) for one in (white, corners)], ("/generate", body))
    assert [status for status, _ in replies] == [200, 422, 422]
    picture = opened(replies[0][1])
    assert [picture.getpixel(place) for place in ((4, 8), (19, 15), (20, 16))] == [(0, 0, 255)] * 2 + [(255, 0, 0)]
    assert pipeline.calls == [{"strength": 0.5, "boxes": [(4, 8, 20, 16)]}]
    assert "no rectangle" in replies[1][1]["error"]["message"] and "send image and mask" in str(replies[2][1])


def test_what_is_no_pipeline_is_said_at_once(monkeypatch):
    with pytest.raises(Exception, match="takes no image and no mask_image"):
        service(monkeypatch, Words(), makes="inpaint")
