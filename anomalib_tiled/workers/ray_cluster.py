"""The connection to Ray: starting it or joining a cluster, creating actors, and what its errors mean."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import ModuleType
from typing import Any

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.workers import KilledError, PlaceError
from anomalib_tiled.system.limits import cores

NODE = "ray.io/node-id"
"""Label by which Ray knows each of its nodes."""

NAMESPACE = "anomalib-tiled"

REACHED_WITHIN = 10.0
"""Seconds in which the cluster must answer."""

STORE = 100 * 10**6
"""Bytes for objects of Ray on this machine: nothing large passes through it."""


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
            message = f"Ray could not be started on this machine: {error}"
            if not self.alone:
                must = "workers.init_args.address must be the address of a Ray cluster that this machine belongs to"
                message = f"{must}, but is {address!r}: {error}"
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
        def where(self) -> tuple[str, str, str, int]:
            import os
            import platform

            import ray

            address = ray.util.get_node_ip_address()
            return ray.get_runtime_context().get_node_id(), address, platform.node(), os.getpid()

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
    return PlaceError(f"its process on {node} has ended. Ray says: {main_line(str(error))}")


def main_line(text: str) -> str:
    """Give the line of a message of Ray that says what happened; others hold details, guesses or a traceback."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    said = next((line for line in lines if re.match("The actor (is dead|died) because", line)), lines[-1])
    return said.partition(" Some common causes")[0]
