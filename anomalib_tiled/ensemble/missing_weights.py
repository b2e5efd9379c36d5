"""Pretrained weights that a model needs, from the internet, a cache or a folder, and advice if they are missing."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

import torch
from huggingface_hub import constants, set_client_factory
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils._http import default_client_factory  # no public name gives the client that is replaced

from anomalib_tiled.config.settings import ClassSpec

if TYPE_CHECKING:
    from httpx2 import Client, Request, Response

UNREACHABLE = (LocalEntryNotFoundError, URLError, ConnectionError, TimeoutError)
"""Errors of a download that no server answers."""

LOCAL_FOLDER = "local-dir:"
"""Prefix of the name of a backbone whose weights are in a folder."""

CONFIGURATION = "config.json"
"""File in such a folder that describes the network."""


def remedy(error: BaseException, spec: ClassSpec, *, trained: bool) -> str | None:
    """Say what to do if a model cannot be made because its weights, or the folder with them, are missing.

    Args:
        error: Error of making the model.
        spec: Class and arguments of the model, defaults included.
        trained: Whether the model belongs to a run, whose checkpoints hold its weights.

    Returns:
        One or two sentences; ``None`` if the error has another cause.
    """
    has_random = "pre_trained" in spec.init_args
    texts = [value for value in spec.init_args.values() if isinstance(value, str)]
    folders = [Path(text.removeprefix(LOCAL_FOLDER)) for text in texts if text.startswith(LOCAL_FOLDER)]
    if missing := [folder for folder in folders if not (folder / CONFIGURATION).is_file()]:
        alone = trained and has_random  # the weights come from the checkpoint
        needed = f"only {CONFIGURATION} is read" if alone else f"it must hold {CONFIGURATION} and the weights"
        return f"{missing[0].absolute() / CONFIGURATION} is missing. Restore the folder; {needed}."
    if not _is_unreachable(error):
        return None
    caches = f"{constants.HF_HUB_CACHE} of Hugging Face, {torch.hub.get_dir()} of PyTorch"
    ways = ["connect it to the internet", f"copy to it the caches of a machine that has loaded such a model ({caches})"]
    if "backbone" in spec.init_args and not trained:
        ways.append(
            f"for a model that takes any backbone of timm, name a folder, --model.backbone {LOCAL_FOLDER}FOLDER"
        )
    if has_random and not trained:
        ways.append("begin with random weights, --model.pre_trained false")
    return f"Its weights are not on this machine, and cannot be downloaded. Do one of these: {'; '.join(ways)}."


def _is_unreachable(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, says that no server answers."""
    if error is None or isinstance(error, UNREACHABLE):
        return error is not None
    return _is_unreachable(error.__cause__ or error.__context__)


def turn_off_hub_retries() -> None:
    """Let Hugging Face Hub treat the machine as offline if a request gets no answer; for the whole process.

    By default it requests each file seven times, with growing pauses, before it raises an error.
    """
    set_client_factory(_client)


class _Unanswered(threading.local):
    """Requests of a thread that have no answer yet."""

    def __init__(self) -> None:
        self.urls = set[str]()


_unanswered = _Unanswered()


def _client() -> Client:
    client = default_client_factory()
    hooks = client.event_hooks
    client.event_hooks = {
        **hooks,
        "request": [*hooks["request"], _before_request],
        "response": [*hooks["response"], _after_response],
    }
    return client


def _before_request(request: Request) -> None:
    """Refuse to repeat a request that got no answer."""
    if (url := str(request.url)) in _unanswered.urls:
        message = f"the last request for {url} got no answer, so it is not repeated"
        raise OfflineModeIsEnabled(message)
    _unanswered.urls.add(url)


def _after_response(response: Response) -> None:
    _unanswered.urls.discard(str(response.request.url))
