"""Fits on a real Ray cluster: two nodes on this machine, with faults."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import yaml
from PIL import Image

import anomalib_tiled
from anomalib_tiled.cli.main import main
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.workers.ray import RayWorkers
from anomalib_tiled.workers.scheduler import Scheduler
from anomalib_tiled.workers.seat import Seat
from anomalib_tiled.workers.task import Work

pytest.importorskip("ray", reason="Ray is not installed: pip install 'anomalib-tiled[ray]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has several addresses of its own"),
]

HEAD, SECOND = "127.0.0.2", "127.0.0.3"
MARK = "ANOMALIB_TILED_TEST_NODE"
SETTINGS = {
    "PYTHONPATH": str(Path(anomalib_tiled.__file__).parents[1]),
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "300",  # a busy machine is slow
}
PATIENCE = 600.0
"""Seconds to wait for what must happen."""

AT_ONCE = 10.0
"""Seconds within which work elsewhere ends once an interrupted command has ended."""

SOON = 60.0
"""Seconds to wait for actors to end after their command has succeeded, or was killed."""


def processes(mark: str) -> dict[int, str]:
    """Commands of the processes that were started with a mark in their environment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().decode()
    return found


def kill(mark: str) -> None:
    """Kill all processes that bear a mark."""
    while alive := processes(mark):
        for process in alive:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)


def wait_until(holds: Callable[[], object], seconds: float = PATIENCE) -> None:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() < began + seconds, "it takes too long"
        time.sleep(0.02)


class Node:
    """A node with one core, and the processes of that.

    Args:
        address: Its address on this machine.
        head: Address of the head; of itself, for the head.
        folder: Folder of all nodes.
        environment: Further variables.
        hidden: A folder that it does not see.
    """

    def __init__(self, address: str, head: str, folder: Path, hidden: Path | None = None, **environment: str) -> None:
        self.mark, self.address = uuid.uuid4().hex, address
        first = ["--head", f"--port={head.partition(':')[2]}", f"--temp-dir={folder}", "--include-dashboard=false"]
        joined = first if head.startswith(address) else [f"--address={head}"]
        command = [str(Path(sys.executable).with_name("ray")), "start", *joined, f"--node-ip-address={address}"]
        command += ["--num-cpus=1", "--object-store-memory=80000000"]
        if hidden is not None:
            hide = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", hide, str(hidden), *command]
        variables = os.environ | SETTINGS | environment | {MARK: self.mark}
        self.environment = variables
        done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def kill(self) -> None:
        """Kill all processes of the node, as a loss of power does."""
        kill(self.mark)

    @property
    def actors(self) -> list[int]:
        """Processes of the actors."""
        return [process for process, command in processes(self.mark).items() if "TilePlace" in command]


class TwoNodes:
    """A cluster of two nodes, of which the second may come and go."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind((HEAD, 0))
            self.address = f"{HEAD}:{free.getsockname()[1]}"
        self.folder = folder
        self.head = Node(HEAD, self.address, folder)
        self.second = self.join(SECOND)

    def join(self, address: str, hidden: Path | None = None, **environment: str) -> Node:
        return Node(address, self.address, self.folder, hidden, **environment)

    @property
    def actors(self) -> list[int]:
        return [*self.head.actors, *self.second.actors]


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[TwoNodes]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        folder = Path("/tmp", f"ray-{uuid.uuid4().hex[:8]}")  # noqa: S108  # sockets need a short path
        folder.mkdir()
        cluster = TwoNodes(folder)
        yield cluster
        cluster.second.kill()
        cluster.head.kill()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of 128 x 128 pixels, four tiles; defects in two images."""
    root, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for folder, count in {"good": 4, "good_test": 2, "bad": 2}.items():
        for number in range(count):
            pixels = random.integers(100, 156, (128, 128, 3), dtype=np.uint8)
            mask = np.zeros((128, 128), dtype=np.uint8)
            if folder == "bad":
                mask[40:90, 50:80] = 255
                pixels[mask > 0] = 255
                (root / "mask").mkdir(exist_ok=True)
                Image.fromarray(mask).save(root / "mask" / f"{number}.png")
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{number}.png")
    return root


class Fit:
    """A run that is to be made in a folder, with any workers."""

    def __init__(self, folder: Path, photographs: Path) -> None:
        self.results, self.cache, self.file = folder / "results", folder / "cache", folder / "configuration.yaml"
        self.run = self.results / "Padim" / "noise" / "v0"
        self.marks: list[str] = []
        model = {"pre_trained": False, "layers": ["layer1"], "n_features": 10}
        folders = {"normal_dir": "good", "normal_test_dir": "good_test", "abnormal_dir": "bad", "mask_dir": "mask"}
        sizes = {"train_batch_size": 4, "num_workers": 0, "val_split_mode": "same_as_test"}
        self.configuration = {
            "seed_everything": 1,
            "default_root_dir": str(self.results),
            "tiling": {"tile_size": 64},
            "model": {"class_path": "Padim", "init_args": model},
            "data": {
                "class_path": "Folder",
                "init_args": {"name": "noise", "root": str(photographs), **folders, **sizes},
            },
            "trainer": {"accelerator": "cpu"},
            "cache": {"directory": str(self.cache)},
            "visualize": False,
        }

    def arguments(self, command: str, class_path: str, **init_args: object) -> list[str]:
        workers = {"class_path": class_path, "init_args": init_args}
        self.file.write_text(yaml.safe_dump(self.configuration | {"workers": workers}), encoding="utf-8")
        return [command, "--config", str(self.file)]

    def resumed(self, command: str, **init_args: object) -> list[str]:
        return [
            command,
            "--ckpt_dir",
            str(self.run),
            "--workers",
            json.dumps({"class_path": "RayWorkers", "init_args": init_args}),
        ]

    def begin(self, arguments: list[str]) -> subprocess.Popen[str]:
        """Start a command in a process of its own."""
        self.marks.append(uuid.uuid4().hex)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests deaf to Ctrl-C
        return subprocess.Popen(
            [sys.executable, "-m", "anomalib_tiled", *arguments],
            env=os.environ | SETTINGS | {MARK: self.marks[-1]},
            cwd=self.results.parent,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def records(self) -> dict[str, bytes]:
        """What is noted of each trained tile, such as the time when its checkpoint was written."""
        return {path.name: path.read_bytes() for path in self.run.glob("tiles/r*_c*.json")}

    @property
    def predicted(self) -> int:
        return len(list(self.run.glob("raw/*/r*_c*.json")))

    @property
    def at_work(self) -> list[int]:
        """Processes that train a tile now: its temporary folder bears their number."""
        return [int(path.name.split("-")[-2]) for path in self.run.glob("tiles/.r*.tmp")]

    @property
    def numbers(self) -> dict[str, object]:
        """All that must be equal to the last bit."""
        checkpoints = {path.name: Checksum.of(path) for path in self.run.glob("tiles/*.ckpt")}
        files = ("calibration.json", "metrics.json", "scores.csv")
        return {**checkpoints, **{name: (self.run / name).read_bytes() for name in files}}

    def check(self, undisturbed: Fit) -> None:
        """Check the numbers, that no command has heard of a tile twice, and that nothing half done is left."""
        assert self.numbers == undisturbed.numbers
        log = (self.run / "logs" / "run.log").read_text(encoding="utf-8")
        names = [path.stem for path in self.run.glob("tiles/r*_c*.ckpt")]
        assert len(names) == 4
        assert [name for name in names if log.count(f"Tile {name}: trained in") > 1] == []
        left = [path for path in self.results.rglob(".*") if path.name != ".lock"]
        assert left == []


@pytest.fixture(scope="module")
def undisturbed(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """The run of one process of this machine."""
    fit = Fit(tmp_path_factory.mktemp("undisturbed"), photographs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert main(fit.arguments("train", "LocalWorkers", processes=1)) == 0
    return fit


@pytest.fixture
def fit(photographs: Path, tmp_path: Path) -> Iterator[Fit]:
    yield (fit := Fit(tmp_path, photographs))
    for mark in fit.marks:
        kill(mark)  # what a failed test has left


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Scheduler], bool]], None]:
    """Let a scheduler hand out no work until a condition holds: the first node that is ready could do all of it."""

    def hold(condition: Callable[[Scheduler], bool]) -> None:
        def hand_out(scheduler: Scheduler, work: Work) -> None:
            assert time.monotonic() < began + PATIENCE, "it takes too long"
            if held or condition(scheduler):
                held.append(True)
                unheld(scheduler, work)

        unheld, held, began = Scheduler._hand_out, [], time.monotonic()
        monkeypatch.setattr(Scheduler, "_hand_out", hand_out)

    return hold


def test_same_numbers_as_on_one_machine(two_nodes: TwoNodes, fit: Fit, undisturbed: Fit) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert main(fit.arguments("train", "RayWorkers", address=two_nodes.address)) == 0
    fit.check(undisturbed)
    assert signal.getsignal(signal.SIGTERM) is before
    wait_until(lambda: not two_nodes.actors, SOON)


def test_killed_node(
    two_nodes: TwoNodes,
    fit: Fit,
    undisturbed: Fit,
    capfd: pytest.CaptureFixture[str],
    hold: Callable[[Callable[[Scheduler], bool]], None],
) -> None:
    hold(lambda scheduler: sum(seat.is_ready for seat in scheduler._seats) == 2)

    def lose_power() -> None:
        wait_until(lambda: set(fit.at_work) & set(two_nodes.second.actors))
        two_nodes.second.kill()

    killer = Thread(target=lose_power)
    killer.start()
    assert main(fit.arguments("train", "RayWorkers", address=two_nodes.address)) == 0
    killer.join()
    fit.check(undisturbed)
    assert f"({SECOND}) has ended: node {SECOND} does not answer any more." in capfd.readouterr().err
    wait_until(lambda: not two_nodes.head.actors, SOON)
    two_nodes.second = two_nodes.join(SECOND)


def test_killed_command(two_nodes: TwoNodes, fit: Fit, undisturbed: Fit) -> None:
    command = fit.begin(fit.arguments("train", "RayWorkers", address=two_nodes.address))
    wait_until(lambda: fit.predicted or command.poll() is not None)
    command.terminate()
    said, _ = command.communicate(timeout=PATIENCE)
    assert command.returncode == 143, said
    assert f"--ckpt_dir {fit.run}" in said
    wait_until(lambda: not two_nodes.actors, AT_ONCE)
    done = fit.records
    assert done
    command = fit.begin(fit.resumed("train", address=two_nodes.address, actors=1))
    wait_until(lambda: fit.at_work or command.poll() is not None)
    command.kill()
    command.wait()
    wait_until(lambda: not two_nodes.actors, SOON)
    done = fit.records | done  # a record that changes would be noticed below
    assert main(fit.resumed("train", address=two_nodes.address, actors=1)) == 0
    fit.check(undisturbed)
    assert fit.records | done == fit.records, "a trained tile is not trained again"


UNFIT = {
    "127.0.0.4": "is excluded: {run} must be the same shared folder on every machine, but",
    "127.0.0.5": "is excluded: anomalib-tiled must have version",
    "127.0.0.7": "is excluded: Every machine that works on a run must see its image cache, but",
}
KILLED = "has ended: Ray has killed it, because memory was short on"


def test_unfit_nodes(
    two_nodes: TwoNodes,
    fit: Fit,
    undisturbed: Fit,
    monkeypatch: pytest.MonkeyPatch,
    hold: Callable[[Callable[[Scheduler], bool]], None],
) -> None:
    unshare = shutil.which("unshare") or "false"
    if subprocess.run([unshare, "--mount", "true"], check=False).returncode != 0:
        pytest.skip("folders cannot be hidden from single processes here")
    fit.results.mkdir()
    fit.cache.mkdir()
    other = fit.results.parent / "other"
    (other / "anomalib_tiled-9.9.dist-info").mkdir(parents=True)
    metadata = "Metadata-Version: 2.1\nName: anomalib-tiled\nVersion: 9.9\n"
    (other / "anomalib_tiled-9.9.dist-info" / "METADATA").write_text(metadata)
    two_nodes.second.kill()
    nodes = [
        two_nodes.join("127.0.0.4", hidden=fit.results),
        two_nodes.join("127.0.0.5", PYTHONPATH=f"{other}:{SETTINGS['PYTHONPATH']}"),
        two_nodes.join("127.0.0.7", hidden=fit.cache),
    ]
    note, noted = Scheduler._note, []

    def noting(scheduler: Scheduler, seat: Seat, what: str, reason: str) -> None:
        noted.append(f"{seat.place.name} {what}: {reason}")
        note(scheduler, seat, what, reason)

    def is_noted(text: str) -> bool:
        return any(text in each for each in noted)

    def all_are_noted(_: Scheduler) -> bool:
        if len(nodes) == len(UNFIT) and all(is_noted(f"({node}) is excluded") for node in UNFIT):
            nodes.append(two_nodes.join("127.0.0.6", RAY_memory_usage_threshold="0.001"))
        return is_noted(KILLED)

    monkeypatch.setattr(Scheduler, "_note", noting)
    hold(all_are_noted)
    try:
        assert main(fit.arguments("train", "RayWorkers", address=two_nodes.address)) == 0
    finally:
        for node in nodes:
            node.kill()
    assert all(is_noted(f"({node}) {why.format(run=fit.run)}") for node, why in UNFIT.items())
    assert is_noted(f"(127.0.0.6) {KILLED} node 127.0.0.6.") or is_noted(f"{KILLED} its node."), "it had no node yet"
    fit.check(undisturbed)
    two_nodes.second = two_nodes.join(SECOND)


def test_interrupted_on_this_machine(fit: Fit) -> None:
    command = fit.begin(fit.arguments("fit", "RayWorkers", num_cpus=1, actors=1))
    wait_until(lambda: fit.at_work or command.poll() is not None)
    os.killpg(command.pid, signal.SIGINT)  # as the terminal does
    said, _ = command.communicate(timeout=PATIENCE)
    assert command.returncode == 130, said
    wait_until(lambda: not processes(fit.marks[-1]), AT_ONCE)
    assert f"--ckpt_dir {fit.run}" in said
    assert [path for path in fit.results.rglob(".*") if path.name != ".lock"] == []


def test_too_large_actors(two_nodes: TwoNodes) -> None:
    workers = RayWorkers(two_nodes.address, num_cpus=3, wait_seconds=1)
    try:
        (place,) = workers.supply(1)
        assert "An actor needs CPU: 3, but the Ray cluster has no room: no node of" in str(
            place.submit(int).exception(20)
        )
        assert workers.supply(1) == []
    finally:
        workers.close()
