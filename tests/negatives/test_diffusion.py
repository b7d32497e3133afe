"""Pictures by diffusers, from tiny pipelines with random weights built in code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops

import sightline.models  # noqa: F401  (makes torchvision importable, so before diffusers)
from sightline.errors import CheckpointError, MissingExtra, RecipeError
from sightline.negatives.painting import Gallery, Order
from sightline.recipes.negatives import PaintSpec

diffusers = pytest.importorskip("diffusers", reason="needs the extra diffusion (diffusers)")

from sightline.negatives.diffusion import Diffusion, diffusion  # noqa: E402

SMALL = {"width": 32, "height": 32, "steps": 2, "guidance": 3.0, "dtype": "float32", "batch_size": 2}


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["a", "red", "blue", "kite", "star", "moon", "on", "the", "beach", "and", "no"]
    vocabulary = {word: place for place, word in enumerate(["<start>", "<end>", "<unk>", *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<end>", bos_token="<start>", eos_token="<end>", unk_token="<unk>",
        model_max_length=16,
    )  # fmt: skip


def clip(projected):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, projection_dim=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def vae(channels):
    return diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=channels, block_out_channels=(8,), norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",), sample_size=32,
        use_quant_conv=channels == 4, use_post_quant_conv=channels == 4, scaling_factor=0.2, shift_factor=0.0,
    )  # fmt: skip


def t5(size=16):
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=16, d_model=size, d_kv=8, d_ff=16, num_layers=1, num_heads=2))


def sdxl():
    unet = diffusers.UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32, attention_head_dim=(2, 4), norm_num_groups=4, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=64, use_linear_projection=True,
        transformer_layers_per_block=(1, 1),
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(4), text_encoder=clip(False), text_encoder_2=clip(True), tokenizer=tokenizer(),
        tokenizer_2=tokenizer(), unet=unet, scheduler=diffusers.EulerDiscreteScheduler(),
    )  # fmt: skip


def flux():
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=vae(4), text_encoder=clip(False),
        tokenizer=tokenizer(), text_encoder_2=t5(), tokenizer_2=tokenizer(), transformer=transformer,
    )  # fmt: skip


def sd3():
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=32, patch_size=1, in_channels=16, num_layers=1, attention_head_dim=8, num_attention_heads=4,
        caption_projection_dim=32, joint_attention_dim=32, pooled_projection_dim=32, out_channels=16,
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=vae(16),
        text_encoder=clip(True), tokenizer=tokenizer(), text_encoder_2=clip(True), tokenizer_2=tokenizer(),
        text_encoder_3=t5(32), tokenizer_3=tokenizer(),
    )  # fmt: skip


BUILD = {"sdxl": sdxl, "flux": flux, "sd3": sd3}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """Folders of tiny pipelines, by name."""
    folder = tmp_path_factory.mktemp("pipelines")
    for name, build in BUILD.items():
        torch.manual_seed(0)
        build().save_pretrained(folder / name)
    return {name: str(folder / name) for name in BUILD}


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "true.png"
    Image.radial_gradient("L").resize((40, 24)).convert("RGB").save(path)
    return str(path)


def spec(path, **options):
    return PaintSpec(path=path, **{**SMALL, "prompt_tokens": None if path.endswith("sdxl") else 16, **options})


def made(painter, orders):
    return dict(painter.paint(orders))


@pytest.mark.parametrize("name", BUILD)
def test_a_picture_depends_on_its_text_and_its_seed(name, pipelines):
    painter = diffusion(spec(pipelines[name]), "text_to_image")
    orders = [Order(text="a red kite", seed=1), Order(text="a red kite", seed=2), Order(text="a blue moon", seed=1)]
    first, other = made(painter, orders[:2]), made(painter, [orders[0], orders[2]])
    assert first[0].size == (32, 32) and first[0].mode == "RGB"
    assert first[0].tobytes() == other[0].tobytes()
    assert first[0].tobytes() != first[1].tobytes() and other[0].tobytes() != other[1].tobytes()
    again = made(diffusion(spec(pipelines[name]), "text_to_image"), orders[:2])
    assert [one.tobytes() for one in again.values()] == [one.tobytes() for one in first.values()]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    made(painter, orders[:1])
    assert torch.equal(torch.get_rng_state(), before)  # training draws its own numbers, whatever is painted beside it


@pytest.mark.parametrize("name", ["sdxl", "flux", "sd3"])
def test_edited_and_inpainted_pictures_keep_their_size(name, pipelines, picture):
    true = Image.open(picture)
    orders = [Order(text="a red kite", seed=1, picture=picture)]
    changed = made(diffusion(spec(pipelines[name], strength=0.9), "edit"), orders)[0]
    assert changed.size == true.size and changed.tobytes() != true.tobytes()
    boxed = [replace(orders[0], box=(0, 0, 20, 24))]
    inside = made(diffusion(spec(pipelines[name], strength=1.0), "inpaint"), boxed)[0]
    assert inside.size == true.size and ImageChops.difference(inside, true).getbbox() is not None


def test_options_that_a_pipeline_does_not_read_are_refused(pipelines):
    with pytest.raises(RecipeError, match=r"StableDiffusionXLPipeline .*prompt_tokens: null"):
        diffusion(spec(pipelines["sdxl"], prompt_tokens=77), "text_to_image")
    with pytest.raises(RecipeError, match="takes no image"):
        diffusion(spec(pipelines["flux"], pipeline="FluxPipeline"), "edit")
    with pytest.raises(RecipeError, match="needs a picture to change"):
        diffusion(spec(pipelines["flux"], pipeline="FluxImg2ImgPipeline"), "text_to_image")
    with pytest.raises(RecipeError, match="diffusers has no pipeline 'FluxPipelin'"):
        diffusion(spec(pipelines["flux"], pipeline="FluxPipelin"), "text_to_image")
    with pytest.raises(CheckpointError, match="cannot be loaded as a pipeline of diffusers"):
        diffusion(spec(str(Path(pipelines["flux"]).parent)), "text_to_image")


def test_a_class_is_chosen_by_name(pipelines, picture):
    painter = diffusion(spec(pipelines["flux"], pipeline="FluxImg2ImgPipeline", strength=0.5), "edit")
    assert type(painter.pipeline).__name__ == painter.settings["maker"] == "FluxImg2ImgPipeline"
    assert isinstance(made(painter, [Order(text="a star", seed=0, picture=picture)])[0], Image.Image)


def test_what_is_in_the_gallery_is_not_painted_again_and_batches_keep_their_company(pipelines, tmp_path):
    painter = diffusion(spec(pipelines["sdxl"]), "text_to_image")
    calls = []
    called = painter._called
    painter._called = lambda orders: calls.append(len(orders)) or called(orders)
    orders = [Order(text="a red kite", seed=seed) for seed in range(5)]
    paths = Gallery(painter=painter, folder=tmp_path / "g").paint(orders)
    whole = [Path(path).read_bytes() for path in paths]
    assert calls == [2, 2, 1] and len(set(whole)) == 5
    calls.clear()
    Path(paths[2]).unlink()  # as a kill between two pictures of a batch leaves it
    assert Gallery(painter=painter, folder=tmp_path / "g").paint(orders) == paths
    assert calls == [2] and [Path(path).read_bytes() for path in paths] == whole
    other = replace(painter.spec, steps=3)
    assert set(Gallery(painter=Diffusion(spec=other, kind="text_to_image", pipeline=painter.pipeline),
                       folder=tmp_path / "g").paint(orders[:2])).isdisjoint(paths)  # fmt: skip


def test_without_diffusers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'sightline\[diffusion\]'"):
        diffusion(spec("somewhere/flux"), "text_to_image")
