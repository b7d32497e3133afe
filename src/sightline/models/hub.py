"""Puts a written model on the Hugging Face hub; only where a command was told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from sightline.errors import SightlineError


class HubError(SightlineError, OSError):
    """The hub did not take a model."""


def push(folder: Path, repo: str, *, api: Any = None) -> str:
    """Uploads a folder as a model repository; one that is made is private.

    Args:
        folder: as written and verified.
        repo: ``owner/name``.
        api: an ``HfApi``; None: with the login of this machine.

    Returns:
        Its address.

    Raises:
        HubError: no such right, no login, no network. The folder stays.
    """
    hub = HfApi() if api is None else api
    try:
        address = hub.create_repo(repo_id=repo, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repo, folder_path=str(folder), commit_message="Upload a model by Sightline")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise HubError(
            f"{folder} was written, and the hub did not take it as {repo!r} ({first}). Log in with `hf auth login`, "
            "and name a repository that you may write to as owner/name"
        ) from error
    return str(address)
