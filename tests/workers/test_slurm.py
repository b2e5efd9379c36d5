"""Jobs of a real SLURM, with two nodes on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from anomalib_tiled.errors import NoPlaceError
from anomalib_tiled.stages.workers import Conditions, KilledError, Place, PlaceError, PreemptedError
from anomalib_tiled.workers import slurm_places
from anomalib_tiled.workers.slurm import SlurmWorkers

pytestmark = pytest.mark.slow

PATIENCE = 400.0
"""Seconds to wait for anything on a busy machine."""

START = Path(__file__).with_name("slurm_start.sh")
WHERE = partial(os.getenv, "SLURMD_NODENAME")
A_LONG_TIME = partial(time.sleep, 1000)


def until(condition: Callable[[], object]) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + PATIENCE, "it never came true"
        time.sleep(0.1)


class Cluster:
    """A SLURM in a folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.conf = home / "slurm.conf"

    def ask(self, *command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def jobs(self) -> list[str]:
        return self.ask("squeue", "--noheader", "--array", "--format=%i %T %N").splitlines()

    def processes(self, node: str = "") -> set[int]:
        """Processes of jobs, such as those of a node, and those that watch them."""
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                variables = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            nodes = [each for each in variables if each.startswith(f"SLURMD_NODENAME={node}")]
            if f"SLURM_CONF={self.conf}" in variables and nodes:
                found |= {int(folder.name), parent}
        return {each for each in found if each > 1 and each not in {os.getpid(), os.getppid()}}

    def kill(self, node: str) -> None:
        """Let a node fail, with all that runs on it, at once: none reports the end of another."""
        processes = {int((self.home / f"slurmd-{node}.pid").read_text()), *self.processes(node)}
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in processes:
                with suppress(ProcessLookupError):  # it ended with another one
                    os.kill(process, number)
        self.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=killed")

    def revive(self, node: str) -> None:
        self.ask("slurmd", "-f", str(self.conf), "-N", node)
        until(lambda: self.ask("sinfo", "--noheader", "--Node", f"--nodes={node}", "--states=idle"))

    def stop(self) -> None:
        for each in ("slurmd-n1.pid", "slurmd-n2.pid", "slurmctld.pid", "munge/pid"):
            if (file := self.home / each).is_file():
                process = int(file.read_text())
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGTERM)
                until(lambda process=process: not Path(f"/proc/{process}").exists())


def free_port() -> int:
    """First of three ports that nobody uses."""
    for first in range(17_000 + os.getpid() % 1000 * 3, 32_000, 3):
        with socket.socket() as one, socket.socket() as two, socket.socket() as three:
            try:
                for port, each in enumerate((one, two, three), first):
                    each.bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    pytest.skip("there are no free ports")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if lacking := [each for each in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(each) is None]:
        pytest.skip(f"SLURM is not installed: there is no {', '.join(lacking)}")
    if os.geteuid() != 0:
        pytest.skip("only root can start SLURM")
    pytest.importorskip("submitit")
    home = tmp_path_factory.mktemp("slurm")
    cluster = Cluster(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(cluster.conf))
        try:
            subprocess.run([START, home, str(free_port())], check=True)
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def folder(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """The folder of a run's workers; in the end nothing may be left there or run."""
    yield tmp_path / "run" / "workers"
    assert not cluster.jobs()
    until(lambda: not cluster.processes())
    assert not [*(tmp_path / "run" / "workers").rglob("*")]


@pytest.fixture
def make(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SlurmWorkers]]:
    monkeypatch.setattr(slurm_places, "SECONDS_BETWEEN_QUESTIONS", 2.0)
    made = []

    def make(**arguments: object) -> SlurmWorkers:
        workers = SlurmWorkers(**{"minutes": 15, "mem_gb": 0.5, "tiles_per_job": 2} | arguments)
        workers.adapt(Conditions(folder=folder))
        workers.start()
        made.append(workers)
        return workers

    yield make
    for workers in made:
        workers.close()


def answer(future: Future[object]) -> object:
    return future.exception(PATIENCE) or future.result()


def error(future: Future[object], kind: type[PlaceError]) -> str:
    error = future.exception(PATIENCE)
    assert type(error) is kind, error
    return str(error)


def do(places: list[Place], task: Callable[[], object] = WHERE) -> list[object]:
    return [answer(future) for future in [place.submit(task) for place in places]]


def test_a_job_does_its_share_of_tasks(make: Callable[..., SlurmWorkers], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")  # as in a job that runs this
    workers = make()
    places = workers.supply(4)
    assert do(places) == ["n1", "n2"]
    assert [place.name.rpartition(" ")[2] for place in places] == ["n1", "n2"]
    assert not workers.supply(2), "each job takes two tiles after its proof"
    assert do(places) == do(places) == ["n1", "n2"]
    assert all(place.is_over for place in places)
    assert len(workers.supply(1)) == 1


def test_what_one_array_cannot_hold_is_several(cluster: Cluster, make: Callable[..., SlurmWorkers]) -> None:
    places = make(tiles_per_job=1).supply(4)
    assert [place.name.count("_") for place in places] == [1, 1, 1, 0], "SLURM has an array of three, and a job"
    for place in places:
        assert do([place]) == do([place])


def test_of_many_jobs_few_run_at_once(cluster: Cluster, make: Callable[..., SlurmWorkers]) -> None:
    places = make(tiles_per_job=1, at_once=1).supply(3)
    do(places[:1])
    assert [each.split()[1] for each in sorted(cluster.jobs())] == ["RUNNING", "PENDING", "PENDING"]


@pytest.mark.parametrize("name", ["TERM", "USR2"])
def test_a_job_that_is_interrupted_ends(cluster: Cluster, make: Callable[..., SlurmWorkers], name: str) -> None:
    workers = make()
    [place] = workers.supply(1)
    do([place])
    future = place.submit(A_LONG_TIME)
    time.sleep(1)
    cluster.ask("scancel", f"--signal={name}", place.job)
    assert f"SLURM took its node back{', or somebody' * (name == 'TERM')}" in error(future, PreemptedError)
    [other] = workers.supply(1)
    assert other.job != place.job
    assert do([other]) != [None]


def test_a_requeued_job_is_a_place_again(cluster: Cluster, make: Callable[..., SlurmWorkers]) -> None:
    workers = make(tiles_per_job=1)
    places = workers.supply(2)
    do(places)
    future = places[0].submit(A_LONG_TIME)
    cluster.ask("scontrol", "requeue", places[0].job)
    error(future, PreemptedError)
    until(lambda: f"{places[0].job} PENDING " in cluster.jobs())
    cluster.ask("scontrol", "update", f"JobId={places[0].job}", "StartTime=now")
    until(lambda: f"{places[0].job} RUNNING" in " ".join(cluster.jobs()))
    found: list[Place] = []

    def returned() -> list[Place]:
        found.extend(workers.supply(2))
        return [place for place in found if place.job == places[0].job]

    until(returned)
    [again] = returned()
    assert do([again]) == [again.node]


def test_a_job_that_is_killed_lacked_memory(cluster: Cluster, make: Callable[..., SlurmWorkers]) -> None:
    [place] = make().supply(1)
    [process] = do([place], os.getpid)
    future = place.submit(A_LONG_TIME)
    os.kill(process, signal.SIGKILL)
    assert "Raise workers.init_args.mem_gb (SLURM says FAILED)" in error(future, KilledError)


def test_a_node_fails_with_its_job(cluster: Cluster, make: Callable[..., SlurmWorkers]) -> None:
    workers = make(tiles_per_job=1)
    places = workers.supply(2)
    nodes = do(places)
    futures = [place.submit(A_LONG_TIME) for place in places]
    cluster.kill(str(nodes[0]))
    try:
        assert "SLURM has requeued it" in error(futures[0], PreemptedError)
        assert not futures[1].done()
        assert workers.supply(1)[0].job != places[0].job
    finally:
        cluster.revive(str(nodes[0]))


def test_nothing_starts_on_an_excluded_node(make: Callable[..., SlurmWorkers]) -> None:
    workers = make(tiles_per_job=1)
    places = workers.supply(4)
    [node, _] = do(places[:2])
    workers.exclude(places[0], "It lacks the run folder.")
    for place in places[:2]:
        place.end()
    found = {name for place in places[2:] for name in do([place]) + do([place])}
    assert found == {"n1", "n2"} - {node}
    [later] = workers.supply(1)
    assert do([later]) == [*found]


def test_what_slurm_refuses_is_said_in_its_words(make: Callable[..., SlurmWorkers]) -> None:
    with pytest.raises(NoPlaceError, match=r"SLURM refuses the jobs: .*invalid partition specified: nope"):
        make(partition="nope").supply(1)


def test_what_slurm_can_never_start_ends(make: Callable[..., SlurmWorkers]) -> None:
    [place] = make(partition="short").supply(1)
    assert error(place.submit(WHERE), PlaceError) == (
        "SLURM cannot start it as it was submitted, and says: PartitionTimeLimit"
    )


def test_the_log_says_why_a_job_does_not_start(make: Callable[..., SlurmWorkers], folder: Path) -> None:
    workers = make(setup=["echo There is no module cuda.", "exit 3"])
    [place] = workers.supply(1)
    log = folder.with_name("logs") / f"job_{place.job}.log"
    assert error(place.submit(WHERE), PlaceError) == (
        "SLURM says FAILED (NonZeroExitCode, exit code 3). It ended before it could start to work; "
        f"the end of {log}:\nThere is no module cuda."
    )
    workers.close()
    assert log.read_text() == "There is no module cuda.\n"


COMMAND = """
import os, signal, sys, time
from functools import partial
from pathlib import Path
from anomalib_tiled.stages.workers import Conditions
from anomalib_tiled.workers import slurm
slurm.SlurmJob = partial(slurm.SlurmJob, patience=float(sys.argv[2]))
workers = slurm.SlurmWorkers(minutes=15, mem_gb=0.5, tiles_per_job=1)
workers.adapt(Conditions(folder=Path(sys.argv[1])))
places = workers.supply(3)
places[0].submit(os.getpid).result()
places[0].submit(partial(time.sleep, 1000))
time.sleep(2)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_command(folder: Path, patience: float) -> None:
    subprocess.run([sys.executable, "-c", COMMAND, folder, str(patience)], check=False, timeout=PATIENCE)


def test_jobs_of_a_killed_command_end_themselves(cluster: Cluster, folder: Path) -> None:
    killed_command(folder, 6)
    assert cluster.jobs()
    until(lambda: not cluster.jobs())
    shutil.rmtree(folder)


def test_jobs_of_a_killed_command_are_ended_by_the_next(
    cluster: Cluster, folder: Path, make: Callable[..., SlurmWorkers]
) -> None:
    killed_command(folder, 60)
    before = {each.split()[0] for each in cluster.jobs()}
    [place] = make().supply(1)
    assert len([*folder.iterdir()]) == 1
    assert before
    assert {each.split()[0] for each in cluster.jobs()} == {place.job}


MODEL = """
import os
import time
from pathlib import Path

from anomalib.models import Padim as Original

FOLDER = Path(os.environ["FOLDER_OF_TESTS"])


class Padim(Original):
    def training_step(self, *arguments, **others):
        FOLDER.joinpath(f"working-{os.environ.get('SLURM_ARRAY_TASK_ID')}").touch()
        while FOLDER.joinpath("pause").exists():
            time.sleep(0.1)
        return super().training_step(*arguments, **others)
"""
"""Waits while there is a file."""


class Fits:
    """Runs on four tiles, made by commands in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pause = folder / "pause"
        self.programs: list[subprocess.Popen[str]] = []
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        self._environment = {"FOLDER_OF_TESTS": str(folder), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        (folder / "paused_padim.py").write_text(MODEL)
        random = np.random.default_rng(0)
        for kind, brightness in {"good": 0, "bad": 150}.items():
            (folder / "images" / kind).mkdir(parents=True)
            for number in range(4):
                pixels = random.integers(0, 100, (128, 128, 3), dtype=np.uint8)
                pixels[20:50, 30 * number : 30 * number + 30] += np.uint8(brightness)
                Image.fromarray(pixels).save(folder / "images" / kind / f"{number}.png")

    def configuration(self, name: str, workers: dict[str, object]) -> Path:
        content = {
            "seed_everything": 1,
            "default_root_dir": str(self.folder / name),
            "tiling": {"tile_size": 64},
            "model": {
                "class_path": "paused_padim.Padim",
                "init_args": {"pre_trained": False, "layers": ["layer1"], "n_features": 10},
            },
            "data": {
                "class_path": "Folder",
                "init_args": {
                    "name": "noise",
                    "root": str(self.folder / "images"),
                    "normal_dir": "good",
                    "abnormal_dir": "bad",
                    "num_workers": 0,
                },
            },
            "trainer": {"accelerator": "cpu"},
            "workers": workers,
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def run(self, name: str) -> Path:
        return self.folder / name / "Padim" / "noise" / "v0"

    def start(self, *command: str | Path) -> subprocess.Popen[str]:
        """Start a command; the models of its tiles wait."""
        for file in self.folder.glob("working-*"):
            file.unlink()
        self.pause.touch()
        program = [sys.executable, "-m", "anomalib_tiled", *map(str, command)]
        environment = os.environ | self._environment
        started = subprocess.Popen(
            program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.programs.append(started)
        return started

    def working(self, program: subprocess.Popen[str], jobs: int) -> list[str]:
        """Wait until tiles are trained in so many jobs, and give their numbers in the array."""
        until(lambda: program.poll() is not None or len([*self.folder.glob("working-*")]) >= jobs)
        assert program.poll() is None, program.communicate()[0]
        return sorted(file.name.partition("-")[2] for file in self.folder.glob("working-*"))

    def finish(self, program: subprocess.Popen[str], status: int = 0) -> str:
        """Let the models train, and wait for the end of the command."""
        self.pause.unlink(missing_ok=True)
        said, _ = program.communicate(timeout=PATIENCE)
        assert program.returncode == status, said
        return said

    def numbers(self, name: str) -> dict[str, bytes]:
        """What a run has come to, to the last bit."""
        run = self.run(name)
        files = [*(run / "tiles").glob("*.ckpt"), run / "calibration.json", run / "metrics.json", run / "scores.csv"]
        return {file.name: file.read_bytes() for file in files if file.exists()}

    def check(self, name: str, cluster: Cluster) -> None:
        """Check that a run is as one that was trained here without disturbance, and that nothing is left."""
        run = self.run(name)
        numbers = self.numbers(name)
        assert numbers.keys() >= {"r00_c00.ckpt", "r00_c01.ckpt", "r01_c00.ckpt", "r01_c01.ckpt", "calibration.json"}
        assert numbers == {file: self.numbers("undisturbed")[file] for file in numbers}
        log = (run / "logs" / "run.log").read_text()
        assert [log.count(f"Tile r0{row}_c0{column}: trained in") for row in (0, 1) for column in (0, 1)] == [1] * 4
        assert not cluster.jobs()
        until(lambda: not cluster.processes())
        assert not [file for file in run.rglob("*") if file.name.startswith(".")]


@pytest.fixture(scope="module")
def fits(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fits]:
    fits = Fits(tmp_path_factory.mktemp("fits"))
    local = fits.configuration("undisturbed", {"class_path": "LocalWorkers", "init_args": {"processes": 1}})
    fits.finish(fits.start("train", "--config", local))
    slurm = {"class_path": "SlurmWorkers", "init_args": {"minutes": 15, "mem_gb": 2, "tiles_per_job": 3}}
    for name in ("lost", "killed"):
        fits.configuration(name, slurm)
    yield fits
    for program in fits.programs:
        program.kill()
        program.wait()


def test_a_fit_goes_on_when_a_node_fails_and_a_job_is_preempted(cluster: Cluster, fits: Fits) -> None:
    program = fits.start("train", "--config", fits.folder / "lost.yaml")
    fits.working(program, 2)
    jobs = {node: job for job, _, node in map(str.split, cluster.jobs())}
    cluster.kill("n1")
    cluster.ask("scancel", "--signal=USR2", jobs["n2"])
    said = fits.finish(program)
    cluster.revive("n1")
    assert f"job {jobs['n1']} on n1 has ended: SLURM has requeued it" in said
    assert f"job {jobs['n2']} on n2 has ended: its 15 minutes were nearly over, or SLURM took its node back" in said
    fits.check("lost", cluster)


def test_a_fit_whose_command_is_killed_is_resumed_on_fewer_nodes(cluster: Cluster, fits: Fits) -> None:
    program = fits.start("fit", "--config", fits.folder / "killed.yaml")
    fits.working(program, 2)
    program.kill()
    program.wait()
    assert cluster.jobs(), "they do not know yet"

    cluster.ask("scontrol", "update", "NodeName=n1", "State=DRAIN", "Reason=test")
    program = fits.start("fit", "--ckpt_dir", fits.run("killed"))
    fits.working(program, 1)
    program.terminate()
    program.wait(PATIENCE)
    assert program.returncode == 143
    until(lambda: not cluster.jobs())

    fits.finish(fits.start("fit", "--ckpt_dir", fits.run("killed")))
    cluster.ask("scontrol", "update", "NodeName=n1", "State=RESUME")
    fits.check("killed", cluster)
