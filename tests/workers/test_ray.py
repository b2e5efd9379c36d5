"""Workers on Ray, as far as no cluster is needed; `test_ray_cluster.py` starts one."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future
from types import ModuleType, SimpleNamespace

import pytest

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.workers import Conditions, KilledError, PlaceError
from anomalib_tiled.workers import ray_cluster
from anomalib_tiled.workers.ray import GB, RayWorkers, amounts, fitting
from anomalib_tiled.workers.ray_cluster import NODE, main_line, place_error, sigterm_kept


class RemoteMethod:
    """A method of an actor that has not been called yet, or never answers."""

    def __init__(self) -> None:
        self.calls: list[Future[object]] = []

    def remote(self, *arguments: object) -> SimpleNamespace:
        self.calls.append(Future())
        return SimpleNamespace(future=lambda: self.calls[-1])


class Actor:
    def __init__(self, options: dict[str, object]) -> None:
        self.options, self.where, self.run = options, RemoteMethod(), RemoteMethod()

    def starts_on(self, node: str) -> None:
        self.where.calls[0].set_result((node, f"address of {node}", "another machine", 1))


class MadeUpRay(ModuleType):
    """Ray with nodes of our choice, whose actors do nothing."""

    def __init__(self, **nodes: dict[str, float]) -> None:
        super().__init__("ray")
        self.all_nodes = nodes
        self.actors: list[Actor] = []
        self.killed: list[Actor] = []
        self.cloudpickle = SimpleNamespace(dumps=lambda _: b"")

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, object]]:
        return [{"NodeID": name, "Alive": True, "Resources": there} for name, there in self.all_nodes.items()]

    def available_resources(self) -> dict[str, float]:
        started = sum(actor.where.calls[0].done() for actor in self.actors if actor not in self.killed)
        return {"CPU": sum(there["CPU"] for there in self.all_nodes.values()) - started}

    def remote(self, _: type) -> SimpleNamespace:
        def make() -> Actor:
            self.actors.append(actor := Actor(options))
            return actor

        options: dict[str, object] = {}
        return SimpleNamespace(options=lambda **given: options.update(given) or SimpleNamespace(remote=make))

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Callable[..., MadeUpRay]:
    def make(**nodes: dict[str, float]) -> MadeUpRay:
        monkeypatch.setitem(sys.modules, "ray", module := MadeUpRay(**nodes))
        return module

    return make


@pytest.mark.parametrize("name", ["num_cpus", "memory", "actors", "wait_seconds"])
def test_amounts_must_be_positive(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^workers\.init_args\.{name} must be greater than 0, but is 0\.$"):
        RayWorkers(**{name: 0})


@pytest.mark.parametrize(("name", "value"), [("num_gpus", -1), ("num_gpus", 1.5), ("num_cpus", 2.5)])
def test_more_than_one_core_or_gpu_must_be_whole(name: str, value: float) -> None:
    message = rf"^workers\.init_args\.{name} must be a whole number, or a fraction of one, but is {value}\.$"
    with pytest.raises(ConfigurationError, match=message):
        RayWorkers(**{name: value})


def test_missing_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    message = r"^RayWorkers needs Ray, which is not installed\. Install it: pip install 'anomalib-tiled\[ray\]'$"
    with pytest.raises(ConfigurationError, match=message):
        RayWorkers().start()


def test_trainer_that_needs_gpus() -> None:
    workers = RayWorkers()
    workers.adapt(Conditions(accelerator="gpu"))
    with pytest.raises(ConfigurationError, match=r"^trainer\.accelerator is gpu, so workers\.init_args\.num_gpus must"):
        workers.start()


def test_unused_gpus(made_up: Callable[..., MadeUpRay], caplog: pytest.LogCaptureFixture) -> None:
    made_up(a={"CPU": 4, "GPU": 1})
    RayWorkers("auto", num_gpus=1).start()
    assert not caplog.messages
    RayWorkers("auto").start()
    assert caplog.messages == [
        "The Ray cluster has GPUs, but tiles use none, as workers.init_args.num_gpus is 0.",
    ]


def test_as_many_actors_as_nodes_hold(made_up: Callable[..., MadeUpRay]) -> None:
    ray = made_up(a={"CPU": 3}, b={"CPU": 5})
    workers = RayWorkers(num_cpus=2)
    assert [place.name for place in workers.supply(2)] == ["actor 1", "actor 2"]
    assert [place.name for place in workers.supply(5)] == ["actor 3"]
    assert workers.supply(5) == []
    ray.all_nodes["c"] = {"CPU": 2}
    assert len(workers.supply(5)) == 1, "a node that has joined is used"
    workers.close()
    assert ray.killed == ray.actors


def test_given_number_of_actors(made_up: Callable[..., MadeUpRay]) -> None:
    ray = made_up(a={"CPU": 1})
    workers = RayWorkers(actors=3, num_cpus=0.5, memory=1.5)
    assert len(workers.supply(8)) == 3, "also without room, for clusters that add nodes"
    assert workers.supply(5) == []
    assert ray.actors[0].options | {"max_restarts": 0, "max_task_retries": 0} == ray.actors[0].options
    assert [ray.actors[0].options[name] for name in ("num_cpus", "num_gpus", "memory")] == [0.5, 0, 1.5 * GB]
    workers.close()


def test_threads(made_up: Callable[..., MadeUpRay]) -> None:
    made_up(a={"CPU": 8})
    assert [RayWorkers(num_cpus=number).supply(1)[0].threads for number in (0.5, 1, 4)] == [1, 1, 4]
    resumed = RayWorkers(num_cpus=4)
    resumed.adapt(Conditions(threads=2))
    assert resumed.supply(1)[0].threads == 2, "as the tiles that are done"


def test_excluded_nodes(made_up: Callable[..., MadeUpRay]) -> None:
    ray = made_up(a={"CPU": 2}, b={"CPU": 2})
    workers = RayWorkers()
    first, *_ = workers.supply(1)
    ray.actors[0].starts_on("a")
    assert first.name == "actor 1 (address of a)"
    workers.exclude(first, "It has another version.")
    first.end()
    assert len(workers.supply(9)) == 2
    assert ray.actors[1].options["label_selector"] == {NODE: "!in(a)"}
    workers.close()


def test_no_node_is_left(made_up: Callable[..., MadeUpRay]) -> None:
    ray = made_up(a={"CPU": 2}, command={"CPU": 0})
    for workers in (RayWorkers(), RayWorkers(actors=3)):
        first, *_ = workers.supply(1)
        ray.actors[-1].starts_on("a")
        workers.exclude(first, "It has another version.")
        first.end()
        assert workers.supply(1) == []
        ray.all_nodes["b"] = {"CPU": 1}
        assert len(workers.supply(1)) == 1, "a node that has joined is used"
        workers.close()
        del ray.all_nodes["b"]


def test_node_where_actors_end_at_once(made_up: Callable[..., MadeUpRay]) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'anomalib-tiled[ray]'")
    from ray.exceptions import ActorUnavailableError  # before the module is replaced

    ray = made_up(a={"CPU": 1}, b={"CPU": 1})
    ray.exceptions = sys.modules["ray.exceptions"]
    workers = RayWorkers(actors=1)
    for supplied, options in enumerate([None, None, {NODE: "!in(a)"}]):
        (place,) = workers.supply(1)
        actor = ray.actors[supplied]
        assert actor.options["label_selector"] == options, "one may end by chance"
        actor.starts_on("a")
        answer = place.submit(print)
        actor.run.calls[0].set_exception(ActorUnavailableError("RPC error", b"1" * 16))
        assert str(answer.exception(0)) == "node address of a does not answer any more."
    workers.close()


def test_room_is_not_awaited_for_ever(made_up: Callable[..., MadeUpRay], caplog: pytest.LogCaptureFixture) -> None:
    ray = made_up(a={"CPU": 1}, b={"CPU": 2})
    workers = RayWorkers(num_cpus=4, memory=2, wait_seconds=0.1)
    (place,) = workers.supply(2)
    reason = (
        "An actor needs CPU: 4, memory: 2 GB, but the Ray cluster has no room: no node of 2 has more than CPU: 2, "
        "memory: 0 GB. Lower workers.init_args.num_cpus or workers.init_args.memory, or add nodes."
    )
    assert caplog.messages == [f"{reason} The command waits for up to 0 s."]
    assert str(place.submit(print).exception(20)) == f"It has waited for 0 s. {reason}"
    assert ray.killed == ray.actors
    assert workers.supply(2) == []
    ray.all_nodes["c"] = {"CPU": 4, "memory": 2 * GB}
    assert "others use it" in workers._no_room(workers._connected())


def test_room_may_have_been_awaited_in_vain_before_the_first_task(made_up: Callable[..., MadeUpRay]) -> None:
    ray = made_up(a={"CPU": 1})
    (place,) = RayWorkers(num_cpus=4, wait_seconds=0.001).supply(1)
    place._timer.join()
    assert ray.killed == ray.actors
    assert "It has waited for 0 s. An actor needs CPU: 4" in str(place.submit(print).exception(0))
    assert ray.actors[0].run.calls == []


def test_amounts() -> None:
    assert amounts({"CPU": 2, "GPU": 0.5, "memory": 1.5 * GB}) == "CPU: 2, GPU: 0.5, memory: 1.5 GB"
    assert fitting({"CPU": 0.1, "GPU": 0.1}, {"CPU": 0.3, "GPU": 1}) == 3
    assert fitting({"CPU": 1, "GPU": 1}, {"CPU": 3}) == 0


def test_handler_of_sigterm_is_kept() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with sigterm_kept():
        signal.signal(signal.SIGTERM, lambda *_: None)
    assert signal.getsignal(signal.SIGTERM) is before


class TestErrors:
    @pytest.fixture(autouse=True)
    def needs_ray(self) -> None:
        pytest.importorskip("ray", reason="Ray is not installed: pip install 'anomalib-tiled[ray]'")

    def test_memory(self) -> None:
        from ray.exceptions import OutOfMemoryError

        error = place_error(OutOfMemoryError("1 worker(s) were killed"), "10.0.0.7")
        assert isinstance(error, KilledError)
        assert str(error) == (
            "Ray has killed it, because memory was short on node 10.0.0.7. Set workers.init_args.memory to the GB that "
            "a tile needs, so that fewer actors share a node."
        )

    def test_silence(self) -> None:
        from ray.exceptions import ActorUnavailableError

        error = place_error(ActorUnavailableError("RPC error", b"1" * 16), "10.0.0.7")
        assert type(error) is PlaceError
        assert str(error) == "node 10.0.0.7 does not answer any more."

    def test_missing_package(self) -> None:
        from ray.exceptions import RayTaskError

        missing = ModuleNotFoundError("No module named 'anomalib'")
        error = place_error(RayTaskError("run", "Traceback ...", missing), "10.0.0.7")
        assert str(error) == (
            "ModuleNotFoundError: No module named 'anomalib'. node 10.0.0.7 must have the same environment as this "
            "machine."
        )

    def test_death(self) -> None:
        from ray.exceptions import ActorDiedError

        error = place_error(ActorDiedError(), "")
        assert str(error).startswith("its process on its node has ended. Ray says: The actor died")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "It died.\n\tpid: 1\nThe actor is dead because its node has died. Some common causes: (1)",
            "its node has died.",
        ),
        ("It died.\nThe actor died because its node has died.\nThe actor never ran.", "its node has died."),
        ("It died, ray::A.__init__()\nTraceback\nModuleNotFoundError: No module named 'a'\n", "No module named 'a'"),
        ("", ""),
    ],
)
def test_main_line(text: str, words: str) -> None:
    assert main_line(text).endswith(words)


def test_unreachable_address(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'anomalib-tiled[ray]'")
    monkeypatch.setattr(ray_cluster, "REACHED_WITHIN", 0.2)
    message = r"^workers\.init_args\.address must be the address of a Ray cluster that this machine belongs to, but is "
    with pytest.raises(ConfigurationError, match=rf"{message}'127\.0\.0\.9:9': .*refused"):
        RayWorkers("127.0.0.9:9").start()
