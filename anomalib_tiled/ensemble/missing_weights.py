"""What a model is made from besides its arguments: weights of others, from the internet, a cache or a folder."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

import torch
from huggingface_hub import constants, set_client_factory
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils._http import default_client_factory  # no public name gives the client that is replaced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from httpx2 import Client, Request, Response

    from anomalib_tiled.config.settings import ClassSpec

UNREACHABLE = (LocalEntryNotFoundError, URLError, ConnectionError, TimeoutError)
"""Errors of those who wanted to download something, and found nobody who answers."""

LOCAL_FOLDER = "local-dir:"
"""Beginning of the name of a backbone whose weights lie in a folder."""

CONFIGURATION = "config.json"
"""File of such a folder that says which network it is."""


def remedy(error: BaseException, spec: ClassSpec, *, trained: bool) -> str | None:
    """Say what to do where a model cannot be made for want of weights, or of the folder that they lie in.

    Args:
        error: What was raised.
        spec: Class and arguments of the model, those that nobody has given among them.
        trained: Whether the model is that of a run, whose checkpoints hold weights for it.

    Returns:
        One or two sentences; ``None`` if the error is about something else.
    """
    has_random = "pre_trained" in spec.init_args
    if missing := [folder for folder in _local_folders(spec) if not (folder / CONFIGURATION).is_file()]:
        alone = trained and has_random  # weights are those of the checkpoint then
        needed = f"{CONFIGURATION} alone is read" if alone else f"it must hold {CONFIGURATION} and the weights"
        return f"{missing[0].absolute() / CONFIGURATION} is missing. Put the folder back; {needed}."
    if not any(isinstance(each, UNREACHABLE) for each in _chain(error)):
        return None
    caches = f"{constants.HF_HUB_CACHE} of Hugging Face, {torch.hub.get_dir()} of PyTorch"
    ways = ["connect it to the internet", f"copy to it the caches of a machine that has made such a model ({caches})"]
    if "backbone" in spec.init_args and not trained:
        ways.append(
            f"for a model that takes any backbone of timm, name a folder, --model.backbone {LOCAL_FOLDER}FOLDER"
        )
    if has_random and not trained:
        ways.append("begin with random weights, --model.pre_trained false")
    return f"Its weights are not on this machine, and cannot be downloaded now. Do one of these: {'; '.join(ways)}."


def _local_folders(spec: ClassSpec) -> list[Path]:
    texts = [value for value in spec.init_args.values() if isinstance(value, str)]
    return [Path(text.removeprefix(LOCAL_FOLDER)) for text in texts if text.startswith(LOCAL_FOLDER)]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Give an error and all that led to it."""
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__ or following.__context__


def ask_the_hub_once() -> None:
    """Have Hugging Face take the machine for offline where nobody answers a request; for the whole process.

    Otherwise each file is asked for seven times, with longer and longer pauses, before its absence is an error.
    """
    set_client_factory(_client)


class _Unanswered(threading.local):
    """What a thread has asked for, and nobody has answered yet."""

    def __init__(self) -> None:
        self.urls = set[str]()


_unanswered = _Unanswered()


def _client() -> Client:
    client = default_client_factory()
    hooks = client.event_hooks
    client.event_hooks = {**hooks, "request": [*hooks["request"], _ask], "response": [*hooks["response"], _answer]}
    return client


def _ask(request: Request) -> None:
    """Refuse to ask for the same again where nobody has answered."""
    if (url := str(request.url)) in _unanswered.urls:
        message = f"nobody has answered the last request for {url}, so it is not tried again"
        raise OfflineModeIsEnabled(message)
    _unanswered.urls.add(url)


def _answer(response: Response) -> None:
    _unanswered.urls.discard(str(response.request.url))
