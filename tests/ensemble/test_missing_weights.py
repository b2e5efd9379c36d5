"""What is said where weights cannot be had, and how long it takes to know."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import URLError

import pytest
from huggingface_hub import get_session, hf_hub_download, set_client_factory
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError
from huggingface_hub.utils._http import default_client_factory

from anomalib_tiled.config.settings import ClassSpec
from anomalib_tiled.ensemble import missing_weights
from anomalib_tiled.ensemble.missing_weights import remedy, turn_off_hub_retries
from anomalib_tiled.ensemble.tile_model import build_tile_model
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.grid import Size

NOBODY = "http://127.0.0.1:9"  # nothing listens there
PADIM = ClassSpec("anomalib.models.Padim", {"backbone": "resnet18", "pre_trained": True})


def caused_by(cause: BaseException) -> Exception:
    error = ConfigurationError("cannot be made")
    error.__cause__ = cause
    return error


@pytest.fixture
def impatient() -> Iterator[None]:
    turn_off_hub_retries()
    yield
    missing_weights._unanswered.urls.clear()
    set_client_factory(default_client_factory)


def test_a_file_that_nobody_gives_is_asked_for_without_a_pause(
    impatient: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    for name in ("model.safetensors", "pytorch_model.bin"):
        with pytest.raises(LocalEntryNotFoundError):
            hf_hub_download("some/model", name, endpoint=NOBODY, cache_dir=tmp_path)
    assert not pauses


def test_who_answers_is_asked_again_and_so_is_another_where_one_does_not(impatient: None) -> None:
    class Answering(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answering) as server, get_session() as session:
        Thread(target=server.serve_forever, daemon=True).start()
        with suppress(HTTPError):
            session.head(NOBODY)
        with pytest.raises(ConnectionError, match="the last request for http://127"):
            session.head(NOBODY)
        for _ in range(3):
            assert session.head(f"http://127.0.0.1:{server.server_port}/file").status_code == 200
        server.shutdown()


@pytest.mark.parametrize("cause", [URLError("unknown host"), TimeoutError()])
def test_remedies_are_those_that_the_model_has(cause: Exception) -> None:
    said = remedy(caused_by(cause), PADIM, trained=False) or ""
    assert "Its weights are not on this machine, and cannot be downloaded. Do one of these: connect it" in said
    assert "copy to it the caches of a machine that has loaded such a model (" in said
    assert "huggingface" in said
    assert said.endswith(
        "for a model that takes any backbone of timm, name a folder, --model.backbone local-dir:FOLDER; "
        "begin with random weights, --model.pre_trained false."
    )
    others = remedy(caused_by(cause), ClassSpec("anomalib.models.SuperADD"), trained=False) or ""
    assert "--model" not in others
    assert "--model" not in (remedy(caused_by(cause), PADIM, trained=True) or ""), "it was trained with these"


def test_other_errors_keep_their_words() -> None:
    assert remedy(caused_by(ValueError("no such layer")), PADIM, trained=False) is None


@pytest.mark.parametrize(
    ("trained", "more", "needs"),
    [
        (True, {"pre_trained": True}, "only config.json is read"),
        (True, {}, "it must hold config.json and the weights"),
        (False, {"pre_trained": True}, "it must hold config.json and the weights"),
    ],
)
def test_a_folder_that_is_gone_is_named(tmp_path: Path, *, trained: bool, more: dict[str, bool], needs: str) -> None:
    spec = ClassSpec("anomalib.models.Padim", {"backbone": f"local-dir:{tmp_path / 'gone'}", **more})
    expected = f"{tmp_path / 'gone' / 'config.json'} is missing. Restore the folder; {needs}."
    assert remedy(caused_by(FileNotFoundError()), spec, trained=trained) == expected


def test_a_model_that_is_to_be_trained_says_which_folder_it_lacks(tmp_path: Path) -> None:
    spec = ClassSpec("anomalib.models.Padim", {"backbone": f"local-dir:{tmp_path / 'gone'}", "layers": ["layer1"]})
    with pytest.raises(ConfigurationError, match=r"Padim cannot be made\. .*gone/config\.json is missing\. Restore"):
        build_tile_model(spec, Size(32, 32))
