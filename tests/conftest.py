"""What tests of several modules start from."""

from __future__ import annotations

import gc
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from copy import deepcopy
from dataclasses import replace
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from anomalib_tiled.grid import Size, TileGrid

if TYPE_CHECKING:
    from anomalib.data import Folder, ImageBatch
    from anomalib.models.components import AnomalibModule

    from anomalib_tiled.cli.parser import Parser
    from anomalib_tiled.config.settings import Settings
    from anomalib_tiled.runs.run_folder import RunFolder

GRIDS = {
    "exact": (Size(8, 8), Size(4, 4), Size(4, 4)),
    "overlapping": (Size(10, 10), Size(4, 4), Size(3, 3)),
    "non-dividing": (Size(11, 11), Size(4, 4), Size(4, 4)),
    "non-square": (Size(12, 20), Size(5, 8), Size(3, 7)),
    "gap between the last two": (Size(10, 10), Size(4, 4), Size(2, 4)),
    "one tile": (Size(6, 6), Size(6, 6), Size(6, 6)),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch  # takes seconds

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:  # noqa: ANN401  # pytest-xdist has no types
    """Say how a process of pytest-xdist has crashed; it says only in which test."""
    if error:
        with suppress(subprocess.TimeoutExpired):  # it was interrupted, and still runs
            print(f"exit status {node.gateway._io.popen.wait(1)}")  # noqa: T201  # minus the number of a signal


@pytest.fixture(scope="session", autouse=True)
def no_early_fork_server() -> Iterator[None]:
    """Commands that tests call train in one process, so nothing would use the fork server that they start early."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anomalib_tiled.cli.main.start_fork_server_early", lambda: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def imports_kept_apart() -> Iterator[None]:
    """Keep what is imported out of the search for garbage, which takes half a second each time otherwise.

    Commands do the same while they train, and undo it, so they are kept from it here.
    """
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        if "anomalib_tiled.pipeline" in sys.modules:  # importing it takes seconds
            patch.setattr("anomalib_tiled.pipeline.long_lived_kept_apart", nullcontext)
        yield


@pytest.fixture(scope="session", autouse=True)
def stacks_without_source() -> Iterator[None]:
    """Jsonargparse looks at the stack whenever it parses, and reads the source of all of pytest's functions in it."""
    stack = inspect.stack
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "stack", lambda context=0: stack(context))
        yield


@pytest.fixture(scope="session")
def without_margin() -> Callable[[Image.Image, tuple[int, int]], np.ndarray]:
    """Cut the margin off the picture of a prediction; of two images beside each other, the painted one is given."""

    def cut(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
        from anomalib_tiled.results.margin import GROUND, letters_of

        (height, width), letters, pixels = size, letters_of(Size(*size)), np.asarray(picture)
        left = (pixels.shape[1] - width) // 2
        if pixels.shape[1] >= 2 * width + letters // 2 and width * 2 > 260:  # the least width
            left = pixels.shape[1] - width
        for top in range(letters // 2, pixels.shape[0] - height + 1, round(1.6 * letters)):
            if top > letters and (pixels[top, left : left + width] != GROUND).any():
                return pixels[top : top + height, left : left + width].astype(int)
        message = f"no image of {size} pixels in a picture of {pixels.shape}"
        raise AssertionError(message)

    return cut


@pytest.fixture(params=GRIDS.values(), ids=GRIDS)
def grid(request: pytest.FixtureRequest) -> TileGrid:
    """Each of several grids."""
    return TileGrid(*request.param)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install a distribution of one module, with the module as its plugin: ``install(name, source, version="1.2")``."""
    folder = tmp_path / "installed"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    names = []

    def write(name: str, source: str, version: str = "1.2") -> None:
        names.append(name)
        (folder / f"{name}.py").write_text(source)
        for earlier in folder.glob(f"{name}-*.dist-info"):
            shutil.rmtree(earlier)
        information = folder / f"{name}-{version}.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (information / "entry_points.txt").write_text(f"[anomalib_tiled]\nmy_{name} = {name}\n")

    yield write
    for name in names:
        sys.modules.pop(name, None)
    gc.collect()  # until then, jsonargparse finds the classes of the modules by their names


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Images of 8 x 12 random pixels: good/ (4), test/ (2), bad/ (2), and a mask for each bad one in masks/."""
    random = np.random.default_rng(0)
    for folder, count in {"good": 4, "test": 2, "bad": 2}.items():
        (tmp_path / folder).mkdir()
        for number in range(count):
            pixels = random.integers(0, 256, (8, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    (tmp_path / "masks").mkdir()
    for number in range(2):
        mask = np.zeros((8, 12), dtype=np.uint8)
        mask[1, 2 + number] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    return tmp_path


MARKERS = """
import numpy as np
from anomalib_tiled import Aligner, Alignment, Reference, hookimpl
from anomalib_tiled.errors import UnalignedError

class ByMarker(Aligner):
    'Moves the only white pixel of each image to where the first one has it.'

    def learn(self, images):
        first = next(iter(images))
        y, x = place(first)
        return Reference(np.ascontiguousarray(first[..., 0]), {"x": x, "y": y})

    def align(self, image, reference):
        y, x = place(image)
        numbers = reference.numbers
        return Alignment((1, 0, x - numbers["x"], 0, 1, y - numbers["y"], 0, 0, 1), 0.75)

def place(image):
    white = np.argwhere(image.min(axis=-1) == 255)
    if len(white) != 1:
        raise UnalignedError(f"{len(white)} pixels are white, but 1 must be")
    return map(float, white[0])

@hookimpl
def register_aligners():
    return [ByMarker]
"""
"""A plugin with an aligner that counts pixels exactly."""


@pytest.fixture(scope="session")
def markers() -> str:
    """Source of a plugin with an aligner, ``markers.ByMarker``."""
    return MARKERS


@pytest.fixture
def by_marker(install: Callable[..., None], image_folder: Path) -> Callable[..., None]:
    """An aligner, and a function that marks images for it: ``by_marker("good/0.png", 3, 5)``, x and y.

    The image folder has a marker in each image already, at (5, 3).
    """
    install("markers", MARKERS)

    def mark(name: str, *place: int) -> None:
        pixels = np.minimum(np.array(Image.open(image_folder / name)), 200)
        if place:
            pixels[place[1], place[0]] = 255
        Image.fromarray(pixels).save(image_folder / name)

    for path in sorted(image_folder.glob("*/*.png")):
        if path.parent.name != "masks":
            mark(f"{path.parent.name}/{path.name}", 5, 3)
    return mark


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Give a file system of its own, of so many MiB; called again, it becomes that large."""
    disk, program = tmp_path / "disk", shutil.which("mount")
    if program is None:
        pytest.skip("there is no mount here")

    def mount(size: int) -> Path:
        known = disk.is_dir()
        disk.mkdir(exist_ok=True)
        options = f"{'remount,' if known else ''}size={size}m"
        command = [program, "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")
        return disk

    yield mount
    gc.collect()  # an error refers to its run, which maps a file
    if disk.is_mount():
        subprocess.run([shutil.which("umount"), str(disk)], check=True)


@pytest.fixture
def limited_files() -> Iterator[None]:
    """Let this process write no file of more than 50 kB for a while."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that everybody may look into, as they may not into that of pytest."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def forbidden() -> Callable[[Path], AbstractContextManager[None]]:
    """Forbid a file or folder to this process for a while: ``with forbidden(path)``."""

    @contextmanager
    def forbid(path: Path) -> Iterator[None]:
        user, mode = os.geteuid(), path.stat().st_mode
        path.chmod(0)
        os.seteuid(user or 65534)  # permissions do not hold for root
        try:
            yield
        finally:
            os.seteuid(user)
            path.chmod(mode)

    return forbid


@pytest.fixture
def datamodule(image_folder: Path) -> Folder:
    """The image folder as a user's data module, validated on the test images."""
    from anomalib.data import Folder  # slow, and few tests need it

    return Folder(
        name="tiny",
        root=image_folder,
        normal_dir="good",
        normal_test_dir="test",
        abnormal_dir="bad",
        mask_dir="masks",
        train_batch_size=2,
        eval_batch_size=2,
        num_workers=0,
        val_split_mode="same_as_test",
    )


@pytest.fixture(scope="session")
def brightness() -> Callable[[float], AnomalibModule]:
    """Make a tile model whose map is the brightness, times a factor: ``brightness(10.0)``."""
    import torch  # slow, as are those below, and few tests need them
    from anomalib import LearningType
    from anomalib.data import InferenceBatch
    from anomalib.models.components import AnomalibModule

    class Brightness(AnomalibModule):
        def __init__(self, factor: float) -> None:
            super().__init__(pre_processor=False, post_processor=False, evaluator=False, visualizer=False)
            self.register_buffer("factor", torch.tensor(factor))

        def forward(self, images: torch.Tensor) -> InferenceBatch:
            return InferenceBatch(anomaly_map=self.factor * images.mean(dim=1, keepdim=True))

        trainer_arguments = {}  # noqa: RUF012  # a property in anomalib
        learning_type = LearningType.ONE_CLASS

    return Brightness


@pytest.fixture(scope="session")
def parser() -> Parser:
    """The parser of ``fit``, which takes a second to make."""
    from anomalib_tiled.cli.options import fit_parser  # slow

    return fit_parser("anomalib tiled fit")


@pytest.fixture
def configuration() -> dict[str, object]:
    """A whole configuration, as a file holds it."""
    return {
        "seed_everything": 7,
        "default_root_dir": "results",
        "tiling": {"image_size": [8, 12], "tile_size": 4, "stride": None},
        "model": {"class_path": "anomalib.models.Padim", "init_args": {"layers": ["layer1"]}},
        "data": {"class_path": "anomalib.data.Folder", "init_args": {"name": "tiny"}},
        "trainer": {"max_epochs": 1},
        "alignment": None,
        "regions": None,
        "assignment": {"class_path": "anomalib_tiled.stages.assignment.PerTile"},
        "global_model": None,
        "merging": {"class_path": "anomalib_tiled.stages.merging.Gaussian", "init_args": {"sigma": 0.5}},
        "scoring": {"class_path": "anomalib_tiled.stages.scoring.Max"},
        "seam_smoothing": None,
        "normalization": {"stage": "image", "method": {"class_path": "anomalib_tiled.stages.normalization.MinMax"}},
        "thresholding": {
            "stage": "tile",
            "method": {"class_path": "anomalib_tiled.stages.thresholding.F1AdaptiveThreshold"},
        },
        "workers": {"class_path": "anomalib_tiled.workers.local.LocalWorkers", "init_args": {"processes": 1}},
        "metrics": {"image": ["AUROC"], "pixel": []},
        "cache": {"directory": "cache"},
        "visualize": True,
        "memory_budget": None,
        "unfitted_tiles": "leave_out",
        "unaligned_images": "error",
        "accelerate": True,
        "precision": "float32",
        "loggers": [],
    }


@pytest.fixture
def changed(configuration: dict[str, object]) -> Callable[[str, object], Settings]:
    """Give settings with another value in one place: ``changed("tiling.stride", 3)``."""
    from anomalib_tiled.config.settings import Settings  # slow

    def change(key: str, value: object) -> Settings:
        copied = deepcopy(configuration)
        *outer, last = key.split(".")
        inner = copied
        for name in outer:
            inner = inner[name]
        inner[last] = value
        return Settings.from_mapping(copied)

    return change


@pytest.fixture
def make_run() -> Callable[[Path, Settings], RunFolder]:
    """Make a run folder with nothing but its configuration."""
    from anomalib_tiled.runs.run_folder import RunFolder
    from anomalib_tiled.system.files import write_text

    def make(path: Path, settings: Settings) -> RunFolder:
        run = RunFolder(path)
        write_text(run.config_file, settings.to_yaml())
        return run

    return make


@pytest.fixture
def ending_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that end the tests if they are imported; their names are none that Python's ``import`` takes."""
    (tmp_path / "a").mkdir()
    for name in ("ev-il", "1x", "a/ev-il"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def settings(configuration: dict[str, object], image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a run on the image folder, six tiles, with a model that is made, and said to be trained."""
    import torch  # slow, as are those below, and few tests need them
    from anomalib import LearningType
    from anomalib.models.components import AnomalibModule

    from anomalib_tiled.config.settings import Settings

    class Untrained(AnomalibModule):
        def __init__(self, number: int = 1) -> None:
            super().__init__(pre_processor=False)
            self.model = torch.nn.Linear(number, 1)

        def training_step(self, batch: ImageBatch, *args: object) -> None:
            return None

        trainer_arguments = {}  # noqa: RUF012  # a property in anomalib
        learning_type = LearningType.ONE_CLASS

    monkeypatch.setitem(sys.modules, "tiny_models", module := module_from_spec(ModuleSpec("tiny_models", None)))
    module.Untrained = Untrained
    folders = {"normal_dir": "good", "normal_test_dir": "test", "abnormal_dir": "bad", "mask_dir": "masks"}
    data = {"name": "tiny", "root": str(image_folder), **folders, "val_split_mode": "same_as_test", "num_workers": 0}
    changes = {
        "default_root_dir": str(image_folder / "results"),
        "model": {"class_path": "tiny_models.Untrained"},
        "data": {"class_path": "anomalib.data.Folder", "init_args": data},
        "trainer": {"accelerator": "cpu", "max_epochs": 1},
        "cache": None,
    }
    settings = Settings.from_mapping(configuration | changes)
    return replace(settings, tiling=replace(settings.tiling, image_size=None))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``prepare`` make runs without the checks that take most of its time, which have tests of their own."""
    from anomalib_tiled.training import preparation  # slow

    for name in ("_check_settings", "check_model", "check_fresh_model", "check_augmentations", "depth_notes"):
        monkeypatch.setattr(preparation, name, lambda *_, **__: ())
