"""From a name on the command line to a service."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from sightline.evaluation.judges.base import Backend
from sightline.evaluation.rubric import load_rubric
from sightline.negatives.describe import read_description
from sightline.services.app import Service, build_app
from sightline.services.batching import Batcher
from sightline.services.guard import Guard
from sightline.services.image import Maker, Studio, image_routes
from sightline.services.judge import Desk, describe_routes, judge_routes, judged
from sightline.services.metrics import Metrics
from sightline.services.pictures import Pictures
from sightline.services.reward import Rewards, Scale, reward_routes, scored
from sightline.services.scenes import ScenesJudge, ScenesMaker, scenes_rewards
from sightline.services.spec import SCENES, ServeSpec


def build_service(spec: ServeSpec) -> Guard:
    """The application of a service; its model is loaded here.

    Raises:
        RecipeError, CheckpointError, DataError, MissingExtra: It cannot be served.
    """
    scratch = Path(tempfile.gettempdir()) / f"sightline-serve-{uuid.uuid4().hex}"
    pictures = Pictures(scratch=scratch, root=spec.root, bounds=spec.bounds)
    router, batcher = _ROUTES[spec.what](spec, pictures, Metrics())
    return build_app(
        Service(
            name=spec.what,
            model=spec.name or spec.model,
            router=router,
            batcher=batcher,
            pictures=pictures,
            bounds=spec.bounds,
            metrics=batcher.metrics,
            token=spec.token,
        )
    )


def _judge(spec: ServeSpec, pictures: Pictures, metrics: Metrics) -> tuple[APIRouter, Batcher[Any, Any]]:
    backend: Backend = ScenesJudge() if spec.model == SCENES else _local(spec)
    batcher = Batcher(run=judged(backend), bounds=spec.bounds, metrics=metrics)
    desk = Desk(
        model=spec.name or spec.model,
        batcher=batcher,
        pictures=pictures,
        critic=load_rubric("reward_score", spec.template),
    )
    if spec.what == "judge":
        return judge_routes(desk), batcher
    return describe_routes(desk, load_rubric("negative_describe"), read_description), batcher


def _local(spec: ServeSpec) -> Backend:
    from sightline.evaluation.judges.local import local_judge

    backend = local_judge(spec.model, dtype=spec.dtype or "float32", batch_size=spec.bounds.batch)
    backend.load()  # what is wrong with the model is said now
    return backend


def _image(spec: ServeSpec, pictures: Pictures, metrics: Metrics) -> tuple[APIRouter, Batcher[Any, Any]]:
    maker: Maker
    if spec.model == SCENES:
        maker = ScenesMaker()
    else:
        from sightline.services.painter import Painter

        maker = Painter(spec.model, spec.makes, dtype=spec.dtype or "bfloat16", batch=spec.bounds.batch)
    batcher = Batcher(run=maker.make, bounds=spec.bounds, metrics=metrics)
    return image_routes(Studio(maker=maker.name, batcher=batcher, pictures=pictures)), batcher


def _reward(spec: ServeSpec, pictures: Pictures, metrics: Metrics) -> tuple[APIRouter, Batcher[Any, Any]]:
    rewards: Rewards = scenes_rewards
    if spec.model != SCENES:
        from sightline.rewards.model import load_reward_model

        rewards = load_reward_model(spec.model).rewards
    batcher = Batcher(run=scored(rewards), bounds=spec.bounds, metrics=metrics)
    return reward_routes(Scale(batcher=batcher, pictures=pictures)), batcher


_ROUTES = {"judge": _judge, "describe": _judge, "image": _image, "reward": _reward}
