"""Options of every command that asks a model: in what type it is held, and how its pictures are made ready."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer
import yaml

from sightline.errors import RecipeError
from sightline.recipes.load import check_spec
from sightline.recipes.pictures import model_fields
from sightline.recipes.schema import ModelSpec

Quantization = Annotated[
    Literal["none", "nf4", "int8"],
    typer.Option(help="Hold the linear layers of the decoder in 4 bits (nf4) or 8 (extra `quantize`)."),
]
QuantizationAsTrained = Annotated[
    Literal["none", "nf4", "int8"] | None,
    typer.Option(help="Hold the linear layers of the decoder in 4 or 8 bits, or not.", show_default="as trained"),
]
Picture = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Other pictures than those saved with the model: image_size, or a key of model.pictures in recipes "
        "(max_pixels=200704, max_tiles=4, pad_to_square=true). Repeatable.",
        show_default=False,
    ),
]


def picture_options(given: Sequence[str] | None) -> dict[str, Any]:
    """``--picture`` as fields of ``ModelSpec``.

    Raises:
        RecipeError: no ``=``, a value that is no YAML, or a key twice.
    """
    pictures = dict[str, Any]()
    for line in given or ():
        key, equals, value = line.partition("=")
        if not equals or key in pictures:
            what = "stands twice" if equals else "has no '='"
            raise RecipeError(
                f"--picture {line}: the key {key!r} {what}. Write each once, as --picture max_pixels=200704"
            )
        try:
            pictures[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            first = str(error).splitlines()[0]
            raise RecipeError(f"--picture {line:.200} cannot be read ({first:.200}). Quote what is no YAML") from error
    return model_fields(pictures)


def asked_model(
    path: str, adapter: str | None, *, dtype: str, quantization: str, picture: Sequence[str] | None
) -> ModelSpec:
    """The model that a command names, with these options.

    Raises:
        RecipeError: an option that there is not, or what stands for no model.
    """
    from sightline.models.locate import located

    options = {"dtype": dtype, "quantization": quantization, **picture_options(picture)}
    return located(check_spec(ModelSpec, "model options", path=path, adapter=adapter, **options))
