"""A task calls its function with an item, and returns an answer that can be sent."""

from __future__ import annotations

import importlib
import pickle
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from types import ModuleType

import pytest
import torch

from anomalib_tiled.errors import OutOfMemoryError
from anomalib_tiled.workers import task as module
from anomalib_tiled.workers.task import Task, UnsentError, Work, gpu_has_failed

MODULE = """
class Stubborn(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class Unopened:
    def __reduce__(self):
        return open_run, ()


def open_run():
    raise FileNotFoundError("the run has gone")


class Opened:
    opened = 0

    def __call__(self, item, *, device=None):
        return item, device, id(self)

    def __setstate__(self, state):
        Opened.opened += 1

    def __getstate__(self):
        return {"state": 1}
"""


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """What is sent to another process is found there by its name, so it stands in a module of its own."""
    (tmp_path / "sent.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("sent")
    sys.modules.pop("sent")


def failing(error: BaseException) -> Work:
    def fail(item: object) -> None:
        raise error

    return Work(fail)


def test_a_task_gives_what_its_function_returns() -> None:
    assert Task(Work(lambda item: item.upper()), "x")().value == "X"
    assert Task(Work(lambda item, *, device: (item, device)), "x", device=3)().value == ("x", 3)


def test_a_function_is_unpickled_once_in_a_process(sent: ModuleType) -> None:
    work = Work(sent.Opened())
    copies = [pickle.loads(pickle.dumps(Task(work, item, device=1))) for item in ("x", "y")]  # noqa: S301
    first, second = (copy().value for copy in copies)
    assert first == ("x", 1, first[2])
    assert second == ("y", 1, first[2]), "the same object, with all that it has read"
    assert sent.Opened.opened == 1


def test_a_task_is_small() -> None:
    assert len(pickle.dumps(Task(Work(print), "x", 1, 0, "advice"))) < 500


def test_a_function_that_cannot_be_unpickled_is_an_error_of_the_item(sent: ModuleType) -> None:
    copy = pickle.loads(pickle.dumps(Task(Work(sent.Unopened()), "x")))  # noqa: S301
    assert str(copy().error) == "the run has gone"


def test_an_error_that_cannot_be_copied_keeps_its_words(sent: ModuleType) -> None:
    answer = Task(failing(sent.Stubborn("this", "that")), "x")()
    assert isinstance(answer.error, UnsentError)
    assert str(answer.error) == "Stubborn: this and that"
    assert not answer.lost


def test_an_error_that_can_be_copied_comes_back_as_it_is() -> None:
    error = ValueError("out of luck")
    assert Task(failing(error), "x")().error is error


def test_after_an_error_of_the_gpu_the_place_is_lost() -> None:
    answer = Task(failing(torch.AcceleratorError("CUDA error: an illegal memory access was encountered")), "x")()
    assert answer.lost


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), SystemExit(3)])
def test_what_ends_a_process_passes(failure: BaseException) -> None:
    with pytest.raises(type(failure)):
        Task(failing(failure), "x")()


def test_tasks_of_one_process_take_turns() -> None:
    done: list[str] = []
    with module.ONE_AT_A_TIME:
        thread = Thread(target=Task(Work(done.append), "x"))
        thread.start()
        thread.join(0.05)
        assert done == []
    thread.join()
    assert done == ["x"]


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("HIP error: invalid device function"),
        caused(ValueError("the model cannot be fitted"), RuntimeError("CUDA error: device-side assert triggered")),
    ],
)
def test_a_gpu_may_fail_for_good(error: Exception) -> None:
    assert gpu_has_failed(error)


@pytest.mark.parametrize(
    "error",
    [
        None,
        ValueError("This is no CUDA error"),
        OutOfMemoryError("The memory of GPU 1 ran out (CUDA error: out of memory)."),
        caused(OutOfMemoryError("The memory of GPU 1 ran out."), RuntimeError("CUDA error: out of memory")),
    ],
)
def test_after_other_errors_a_gpu_works(error: Exception | None) -> None:
    assert not gpu_has_failed(error)


@pytest.mark.parametrize("failure", [None, ValueError("out of luck"), KeyboardInterrupt()])
def test_a_task_uses_the_threads_of_its_place(failure: BaseException | None) -> None:
    def train(item: str) -> None:
        seen.append(torch.get_num_threads())
        if failure is not None:
            raise failure

    seen: list[int] = []
    before = torch.get_num_threads()
    try:
        assert Task(Work(train), "x", threads=before + 1)().error is failure
    except KeyboardInterrupt:
        assert isinstance(failure, KeyboardInterrupt)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
    Task(Work(train), "x")() if failure is None else None
    assert seen[-1] == (before if failure is None else before + 1)


@pytest.mark.parametrize("advice", ["", "Lower workers.init_args.processes"])
def test_less_memory_is_needed_by_smaller_tiles_or_by_what_the_place_advises(advice: str) -> None:
    error = Task(Work(lambda item: torch.empty(2**60)), "x", advice=advice)().error
    assert isinstance(error, OutOfMemoryError)
    smaller = " a new run with a smaller data.init_args.train_batch_size or tiling.tile_size."
    assert str(error).startswith("The memory of the machine ran out (")
    assert str(error).endswith(f"). {f'{advice}, or fit' if advice else 'Fit'}{smaller}")


def test_a_model_that_failed_is_freed() -> None:
    """Its traceback would keep the model in memory while the next item is worked on."""

    class Model:
        pass

    def fail(item: str) -> None:
        model = Model()
        models.append(weakref.ref(model))
        try:
            {}["a"]
        except KeyError as error:
            message = "out of luck"
            raise ValueError(message) from error

    models: list[weakref.ref[Model]] = []
    assert str(Task(Work(fail), "x")().error) == "out of luck"
    assert models[0]() is None
