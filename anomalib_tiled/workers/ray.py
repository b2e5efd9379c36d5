"""Workers on a Ray cluster: an actor for each place, which imports everything once and does one task after the other.

Ray restarts no actor and retries no task: what an actor loses, the scheduler tries elsewhere. Ray is imported when the
workers start, so only they need it.
"""

from __future__ import annotations

import logging
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from threading import Lock, Timer
from time import monotonic, sleep
from typing import Any, TypeVar

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.workers import Conditions, Place, PlaceError, Workers
from anomalib_tiled.system.temporary import is_running
from anomalib_tiled.workers.ray_cluster import Cluster, place_error

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

GB = 10**9

GONE_WITHIN = 5.0
"""Seconds that a killed process of this machine is waited for: what it has left half done is removed afterwards."""


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
        self._patience = Patience(wait_seconds)
        self._cluster: Cluster | None = None
        self._places: list[RayPlace] = []
        self._excluded: list[str] = []
        self._early_ends: Counter[str] = Counter()
        self._made = 0

    def adapt(self, conditions: Conditions) -> None:
        """Use as many threads for a tile as for the tiles that are done."""
        self._conditions = conditions

    def start(self) -> None:
        """Connect to the cluster, or start one on this machine.

        Raises:
            ConfigurationError: Ray is not installed, the cluster cannot be reached, or no node is large enough.
        """
        self._connected()

    def supply(self, wanted: int) -> Sequence[RayPlace]:
        """Create actors, as many as are allowed and have room; if there is no other place, one that waits for room."""
        cluster = self._connected()
        self._exclude_where_actors_fail()
        self._places = [place for place in self._places if not place.ended]
        if not self._may_come(cluster):
            return []
        number = wanted if self.actors is None else min(wanted, self.actors - len(self._places))
        if self.actors is None or self._patience.exhausted:
            number = min(number, self._room(cluster))
        if number <= 0 < wanted and not self._places and not self._patience.exhausted:
            logger.warning("%s The command waits for up to %.0f s.", self._no_room(cluster), self._patience.seconds)
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
            ConfigurationError: Ray is not installed, the cluster cannot be reached, or no node is large enough.
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
                raise ConfigurationError(self._no_room(self._cluster))
            if "GPU" not in self.needs and any("GPU" in node for node in self._cluster.nodes().values()):
                logger.warning("The Ray cluster has GPUs, but tiles use none, as workers.init_args.num_gpus is 0.")
        return self._cluster

    def _place(self, cluster: Cluster) -> RayPlace:
        self._made += 1
        threads = self._conditions.threads or max(1, int(self.needs["CPU"]))
        actor, no_room = cluster.actor(self.needs, self._excluded), partial(self._no_room, cluster)
        return RayPlace(f"actor {self._made}", actor, threads, self._patience, no_room)

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
        """Whether an actor may start some time; not if all nodes that are large enough are excluded."""
        nodes = cluster.nodes()
        unfit = any(fitting(self.needs, nodes[node]) for node in self._excluded if node in nodes)
        return bool(self._capacity(cluster)) or not unfit

    def _exclude_where_actors_fail(self) -> None:
        """Exclude nodes where two actors have ended before their first answer; one may have done so by chance."""
        for place in self._places:
            if place.failed and not place.has_answered:
                self._early_ends[place.node] += 1
                if self._early_ends[place.node] > 1:
                    self.exclude(place, "Two actors have ended there before their first answer.")

    def _no_room(self, cluster: Cluster) -> str:
        """Say that an actor finds no room, and what to do."""
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
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.exhausted = False
        """Whether an actor has waited in vain since the last one started."""


class RayPlace(Place):
    """An actor.

    Args:
        name: Its name; the address of its node is added when it has started.
        actor: Handle of the actor.
        threads: Processor threads of its tasks.
        patience: How long it waits for room.
        no_room: Says why there is none.
    """

    def __init__(
        self,
        name: str,
        actor: Any,  # noqa: ANN401  # made by Ray
        threads: int,
        patience: Patience,
        no_room: Callable[[], str],
    ) -> None:
        self.name, self.threads = name, threads
        self.advice = "Raise workers.init_args.memory, so that fewer actors share a node"
        self.node = self.address = ""
        self.ended = self.failed = self.has_answered = False
        self._actor, self._patience, self._no_room = actor, patience, no_room
        self._process = 0
        self._answer: Future[Any] = Future()
        self._lock = Lock()
        self._timer = Timer(patience.seconds, self._give_up)
        self._timer.daemon = True
        self._timer.start()
        actor.where.remote().future().add_done_callback(self._started)

    def submit(self, task: Callable[[], Result]) -> Future[Result]:
        """Send a task to the actor, unless it has already waited for room in vain."""
        from ray import cloudpickle

        answer: Future[Result] = Future()
        with self._lock:
            if self.ended:
                return self._answer
            self._answer = answer
        self._actor.run.remote(cloudpickle.dumps(task)).future().add_done_callback(self._finished)
        return answer

    def end(self) -> None:
        """Kill the process of the actor, and its children; on this machine, wait until it is gone."""
        import ray

        self.ended = True
        self._timer.cancel()
        if ray.is_initialized():
            ray.kill(self._actor)
        until = monotonic() + GONE_WITHIN
        while self._process and is_running(self._process) and monotonic() < until:
            sleep(0.01)

    def _started(self, done: Future[tuple[str, str, str, int]]) -> None:
        """Note the node; called by Ray in a thread of its own, also if the actor has ended instead."""
        self._timer.cancel()
        if done.exception() is None:
            self.node, self.address, machine, process = done.result()
            self._process = process if machine == platform.node() else 0
            self.name = f"{self.name} ({self.address})"
            self._patience.exhausted = False

    def _give_up(self) -> None:
        """End the actor, which has found no room in time; called in a thread of the timer."""
        self._patience.exhausted = True
        with self._lock:
            self.ended = True
        self._settle(PlaceError(f"It has waited for {self._patience.seconds:.0f} s. {self._no_room()}"))
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


def fitting(needs: Mapping[str, float], resources: Mapping[str, float]) -> int:
    """Give the number of actors that fit into resources."""
    return min(int(resources.get(name, 0) / amount + 1e-6) for name, amount in needs.items())


def amounts(resources: Mapping[str, float]) -> str:
    """Name resources, such as ``CPU: 2, memory: 8 GB``."""
    texts = {name: f"{amount / GB:.3g} GB" if name == "memory" else f"{amount:g}" for name, amount in resources.items()}
    return ", ".join(f"{name}: {text}" for name, text in texts.items())
