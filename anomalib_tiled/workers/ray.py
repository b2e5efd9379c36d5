"""Workers on a Ray cluster: an actor for each place, which imports everything once and does one task after the other.

Ray restarts no actor and retries no task: what an actor loses, the scheduler tries elsewhere. Ray is imported when the
workers start, so only they need it.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Lock, Timer, current_thread, main_thread
from types import ModuleType
from typing import Any, TypeVar

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.workers import Conditions, KilledError, Place, PlaceError, Workers
from anomalib_tiled.system.limits import cores

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

GB = 10**9

NODE = "ray.io/node-id"
"""Label by which Ray knows each of its nodes."""

NAMESPACE = "anomalib-tiled"

REACHED_WITHIN = 10.0
"""Seconds in which the cluster must answer."""

STORE = 100 * 10**6
"""Bytes for objects of Ray on this machine: nothing large passes through it."""


class RayWorkers(Workers):
    """Trains tiles on the nodes of a Ray cluster, one tile at a time in each actor.

    Args:
        address: Address of the cluster, such as ``10.0.0.1:6379``, or ``auto`` for the one that this machine belongs
            to; null starts Ray on this machine alone, and ends it afterwards. If the program has connected to Ray
            itself, that cluster is used.
        num_cpus: Processor cores that Ray reserves for each actor, and so the threads of each tile.
        num_gpus: GPUs for each actor. With a fraction such as 0.5, actors share a GPU; with 0, they use none.
        memory: Memory that Ray reserves for each actor, in GB; null for none.
        actors: Most actors at a time; null for as many as the nodes have room for.
        wait_seconds: Time after which the command gives up actors that Ray could not start for want of room. A cluster
            that adds nodes on demand must be able to do so in this time.
    """

    elsewhere = True

    def __init__(  # noqa: PLR0913, PLR0917  # a configuration names them
        self,
        address: str | None = None,
        num_cpus: float = 1,
        num_gpus: float = 0,
        memory: float | None = None,
        actors: int | None = None,
        wait_seconds: float = 300,
    ) -> None:
        given = {"num_cpus": num_cpus, "memory": memory, "actors": actors, "wait_seconds": wait_seconds}
        for name, value in given.items():
            if value is not None and not value > 0:
                message = f"workers.init_args.{name} must be greater than 0, but is {value!r}."
                raise ConfigurationError(message)
        for name, value in {"num_cpus": num_cpus, "num_gpus": num_gpus}.items():
            if value < 0 or (value > 1 and value != int(value)):
                message = f"workers.init_args.{name} must be a whole number, or a fraction of one, but is {value!r}."
                raise ConfigurationError(message)
        self.address, self.actors, self.wait_seconds = address, actors, wait_seconds
        needs = {"CPU": num_cpus, "GPU": num_gpus, "memory": int((memory or 0) * GB)}
        self.needs: dict[str, float] = {name: amount for name, amount in needs.items() if amount}
        self._conditions = Conditions()
        self._patience = Patience(wait_seconds, self._no_room)
        self._cluster: Cluster | None = None
        self._places: list[RayPlace] = []
        self._excluded: list[str] = []
        self._made = 0

    def adapt(self, conditions: Conditions) -> None:
        """Use as many threads for a tile as for the tiles that are done."""
        self._conditions = conditions

    def start(self) -> None:
        """Connect to the cluster, or start one on this machine.

        Raises:
            ConfigurationError: Ray is not installed, the cluster cannot be reached, or it can never give what is asked.
        """
        self._connected()

    def supply(self, wanted: int) -> Sequence[RayPlace]:
        """Create actors, as many as are allowed and have room; if there is no other place, one that waits for room."""
        cluster = self._connected()
        for place in self._places:
            if place.failed and not place.has_answered:
                self.exclude(place, "An actor has ended there before its first answer.")
        self._places = [place for place in self._places if not place.ended]
        number = wanted if self.actors is None else min(wanted, self.actors - len(self._places))
        if self.actors is None or self._patience.exhausted:
            number = min(number, self._room(cluster))
        if number <= 0 < wanted and not self._places and not self._patience.exhausted and self._may_come(cluster):
            logger.warning("%s The command waits for up to %.0f s.", self._no_room(), self._patience.seconds)
            number = 1
        new = [self._place(cluster) for _ in range(number)]
        self._places += new
        return new

    def exclude(self, place: Place, reason: str) -> None:
        """Create no more actors on the node of a place."""
        if isinstance(place, RayPlace) and place.node not in ("", *self._excluded):
            logger.info("No more actors on node %s of the Ray cluster: %s", place.address, reason)
            self._excluded.append(place.node)

    def close(self) -> None:
        """End all actors, and Ray, if this object has started it."""
        for place in self._places:
            place.end()
        self._places = []
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def _connected(self) -> Cluster:
        """Give the cluster, to which this object connects once.

        Raises:
            ConfigurationError: Ray is not installed, the cluster cannot be reached, or it can never give what is asked.
        """
        if self._cluster is None:
            if self._conditions.accelerator in ("gpu", "cuda") and "GPU" not in self.needs:
                message = (
                    f"trainer.accelerator is {self._conditions.accelerator}, so workers.init_args.num_gpus must be "
                    "greater than 0: Ray hides GPUs from actors that ask for none."
                )
                raise ConfigurationError(message)
            self._cluster = Cluster(self.address)
            if self._cluster.alone and not self._capacity(self._cluster):
                raise ConfigurationError(self._no_room())
            if "GPU" not in self.needs and any("GPU" in node for node in self._cluster.nodes().values()):
                logger.warning("The Ray cluster has GPUs, but tiles use none, as workers.init_args.num_gpus is 0.")
        return self._cluster

    def _place(self, cluster: Cluster) -> RayPlace:
        self._made += 1
        threads = self._conditions.threads or max(1, int(self.needs["CPU"]))
        return RayPlace(f"actor {self._made}", cluster.actor(self.needs, self._excluded), threads, self._patience)

    def _usable(self, cluster: Cluster) -> list[Mapping[str, float]]:
        """Give the resources of the nodes that are not excluded."""
        return [resources for node, resources in cluster.nodes().items() if node not in self._excluded]

    def _capacity(self, cluster: Cluster) -> int:
        """Give the number of actors that the nodes could hold if nothing else used them."""
        return sum(fitting(self.needs, resources) for resources in self._usable(cluster))

    def _room(self, cluster: Cluster) -> int:
        """Give the number of actors that the nodes can hold now, beside those that there are."""
        starting = sum(not place.node for place in self._places)
        free = fitting(self.needs, cluster.free()) - starting
        return min(free, self._capacity(cluster) - len(self._places))

    def _may_come(self, cluster: Cluster) -> bool:
        """Whether room may come: a node is in use, or the cluster may add nodes; but not if its nodes are unfit."""
        return not self._excluded or bool(self._usable(cluster))

    def _no_room(self) -> str:
        """Say that an actor finds no room, and what to do."""
        cluster = self._connected()
        usable = self._usable(cluster)
        largest = {name: max((node.get(name, 0) for node in usable), default=0) for name in self.needs}
        settings = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
        names = " or ".join(f"workers.init_args.{settings[name]}" for name in self.needs)
        reason = (
            "others use it" if self._capacity(cluster) else f"no node of {len(usable)} has more than {amounts(largest)}"
        )
        where = "this machine" if cluster.alone else "the Ray cluster"
        return f"An actor needs {amounts(self.needs)}, but {where} has no room: {reason}. Lower {names}, or add nodes."


class Patience:
    """How long actors wait for room.

    Args:
        seconds: Time that one of them waits.
        explain: Says why there is no room.
    """

    def __init__(self, seconds: float, explain: Callable[[], str]) -> None:
        self.seconds, self.explain = seconds, explain
        self.exhausted = False
        """Whether an actor has waited in vain since the last one started."""


class RayPlace(Place):
    """An actor.

    Args:
        name: Its name; the address of its node is added when it has started.
        actor: Handle of the actor.
        threads: Processor threads of its tasks.
        patience: How long it waits for room.
    """

    def __init__(self, name: str, actor: Any, threads: int, patience: Patience) -> None:  # noqa: ANN401  # made by Ray
        self.name, self.threads = name, threads
        self.advice = "Raise workers.init_args.memory, so that fewer actors share a node"
        self.node = self.address = ""
        self.ended = self.failed = self.has_answered = False
        self._actor, self._patience = actor, patience
        self._answer: Future[Any] = Future()
        self._lock = Lock()
        self._timer = Timer(patience.seconds, self._give_up)
        self._timer.daemon = True
        self._timer.start()
        actor.where.remote().future().add_done_callback(self._started)

    def submit(self, task: Callable[[], Result]) -> Future[Result]:
        """Send a task to the actor."""
        from ray import cloudpickle

        answer: Future[Result] = Future()
        self._answer = answer
        self._actor.run.remote(cloudpickle.dumps(task)).future().add_done_callback(self._finished)
        return answer

    def end(self) -> None:
        """Kill the process of the actor, and its children."""
        import ray

        self.ended = True
        self._timer.cancel()
        if ray.is_initialized():
            ray.kill(self._actor)

    def _started(self, done: Future[tuple[str, str]]) -> None:
        """Note the node; called by Ray in a thread of its own, also if the actor has ended instead."""
        self._timer.cancel()
        if done.exception() is None:
            self.node, self.address = done.result()
            self.name = f"{self.name} ({self.address})"
            self._patience.exhausted = False

    def _give_up(self) -> None:
        """End the actor, which has found no room in time; called in a thread of the timer."""
        self._patience.exhausted = True
        self._settle(PlaceError(f"It has waited for {self._patience.seconds:.0f} s. {self._patience.explain()}"))
        self.end()

    def _finished(self, done: Future[Any]) -> None:
        """Pass the answer of a task on; called by Ray in a thread of its own."""
        error = done.exception()
        if error is None:
            self.has_answered = True
            self._settle(done.result())
        else:
            self.failed, self.ended = not self.ended, True
            self._settle(place_error(error, self.address))

    def _settle(self, answer: object) -> None:
        """Give the answer that is owed, once: time may be over just when an actor starts."""
        with self._lock:
            if self._answer.done():
                return
            if isinstance(answer, PlaceError):
                self._answer.set_exception(answer)
            else:
                self._answer.set_result(answer)


class Cluster:
    """The connection of this process to Ray.

    Args:
        address: Address of the cluster; ``None`` to start one on this machine. Ignored if the process is connected.

    Raises:
        ConfigurationError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, address: str | None) -> None:
        self._ray = imported_ray()
        self._connected_here = not self._ray.is_initialized()
        self.alone = self._connected_here and address is None
        """Whether this object has started Ray, on this machine alone."""
        self._folder = tempfile.mkdtemp(prefix="ray-") if self.alone else ""
        if not self._connected_here:
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        arguments: dict[str, object] = {"address": address, "namespace": NAMESPACE}
        if self.alone:
            one = {
                "num_cpus": cores(),
                "include_dashboard": False,
                "object_store_memory": STORE,
                "_temp_dir": self._folder,
            }
            arguments |= {"address": "local", **one}
        try:
            check_reachable(address or "")
            with sigterm_kept():
                self._ray.init(**arguments, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            self.close()
            message = (
                "workers.init_args.address must be the address of a Ray cluster that this machine belongs to, but is "
                f"{address!r}: {error}"
            )
            raise ConfigurationError(message) from error

    def nodes(self) -> dict[str, Mapping[str, float]]:
        """Give the resources of each node that is alive, by its identifier."""
        return {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}

    def free(self) -> Mapping[str, float]:
        """Give the resources that nothing uses, of all nodes together."""
        free: Mapping[str, float] = self._ray.available_resources()
        return free

    def actor(self, needs: Mapping[str, float], excluded: Sequence[str]) -> Any:  # noqa: ANN401  # made by Ray
        """Create an actor; returns before it has started.

        Args:
            needs: Its resources.
            excluded: Identifiers of the nodes that it must not be on.
        """
        options = {
            "num_cpus": needs["CPU"],
            "num_gpus": needs.get("GPU", 0),
            "memory": needs.get("memory"),
            "label_selector": {NODE: f"!in({','.join(excluded)})"} if excluded else None,
            "scheduling_strategy": "SPREAD",
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        return self._ray.remote(actor_class()).options(**options).remote()

    def close(self) -> None:
        """Disconnect, and end Ray if this object has started it."""
        if self._connected_here:
            self._ray.shutdown()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def check_reachable(address: str) -> None:
    """Check that something answers at an address with a port: Ray tries for many minutes.

    Raises:
        OSError: Nothing answers.
    """
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if host and port.isdecimal():
        with socket.create_connection((host, int(port)), timeout=REACHED_WITHIN):
            return


def imported_ray() -> ModuleType:
    """Import Ray.

    Raises:
        ConfigurationError: It is not installed.
    """
    if "ray" not in sys.modules:  # Ray prints about dead processes on standard output, unless told so before its import
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        import ray
    except ImportError as error:
        message = "RayWorkers needs Ray, which is not installed. Install it: pip install 'anomalib-tiled[ray]'"
        raise ConfigurationError(message) from error
    module: ModuleType = ray
    return module


def actor_class() -> type:
    """Make the class of the actors, which Ray sends to nodes whole, as it is not found by its name.

    So an actor starts, and can say where it is, on a node that lacks this package, too.
    """

    class TilePlace:
        def where(self) -> tuple[str, str]:
            import ray

            return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

        def run(self, task: bytes) -> object:
            import pickle

            return pickle.loads(task)()  # noqa: S301  # pickled by the command that has created this actor

    return TilePlace


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray replaces by one that ends the process without cleaning up."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def fitting(needs: Mapping[str, float], resources: Mapping[str, float]) -> int:
    """Give the number of actors that fit into resources."""
    return min(int(resources.get(name, 0) / amount + 1e-6) for name, amount in needs.items())


def amounts(resources: Mapping[str, float]) -> str:
    """Name resources, such as ``CPU: 2, memory: 8 GB``."""
    texts = {name: f"{amount / GB:.3g} GB" if name == "memory" else f"{amount:g}" for name, amount in resources.items()}
    return ", ".join(f"{name}: {text}" for name, text in texts.items())


def place_error(error: BaseException, address: str) -> PlaceError:
    """Say in a user's words why an actor has ended.

    Args:
        error: The error of Ray.
        address: Address of the node of the actor; "" if it never started.
    """
    from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayTaskError

    node = f"node {address}" if address else "its node"
    if isinstance(error, OutOfMemoryError):
        advice = "Set workers.init_args.memory to the GB that a tile needs, so that fewer actors share a node."
        return KilledError(f"Ray has killed it, because memory was short on {node}. {advice}")
    if isinstance(error, ActorUnavailableError):
        return PlaceError(f"{node} does not answer any more.")
    if isinstance(error, RayTaskError):
        cause = error.cause
        advice = f"{node} must have the same environment as this machine."
        return PlaceError(f"{type(cause).__name__}: {str(cause).rstrip('.')}. {advice}")
    return PlaceError(f"its process on {node} has ended. Ray says: {last_words(str(error))}")


def last_words(text: str) -> str:
    """Shorten a message of Ray, which has a line about each fact and ends with guesses or a traceback."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    said = next((line for line in lines if re.match("The actor (is dead|died) because", line)), lines[-1])
    return said.partition(" Some common causes")[0]
