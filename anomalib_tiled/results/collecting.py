"""Lets places predict shards of images, and records what they find in the order of the images.

The places write a file for each shard. A file that waits for those before it stays on the disk, so a command that is
killed loses only the shards that are in work.
"""

from __future__ import annotations

from collections import deque
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from anomalib_tiled.errors import NoPlaceError, OutOfMemoryError, StageError
from anomalib_tiled.results.predict_shard import PredictionCheck, PredictShard
from anomalib_tiled.results.recording import record_part
from anomalib_tiled.stages.workers import PlaceError
from anomalib_tiled.system.files import is_file, refresh
from anomalib_tiled.workers.proof import Proof, Token, versions
from anomalib_tiled.workers.scheduler import Terms
from anomalib_tiled.workers.task import Work

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from anomalib_tiled.results.image_job import ImageJob
    from anomalib_tiled.results.predict_shard import Notify
    from anomalib_tiled.results.recording import Record
    from anomalib_tiled.results.shards import ImageShard
    from anomalib_tiled.stages.workers import Conditions
    from anomalib_tiled.workers.scheduler import Scheduler


class Collection:
    """The shards of a prediction, and which of them are done.

    Args:
        scheduler: Gives the shards to places.
        conditions: Settings of the run, for the workers.
        job: What predicting the images needs.
        shards: The shards, in order.
        record: Takes what the places find, in the order of the images.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        conditions: Conditions,
        job: ImageJob,
        shards: Iterable[ImageShard],
        record: Record,
    ) -> None:
        self._scheduler, self._conditions, self._job, self._record = scheduler, conditions, job, record
        self._folder = job.writer.folder.parts
        self._queue = deque((shard, shard.file_in(self._folder)) for shard in shards)
        self._total = sum(len(shard.images) for shard, _ in self._queue)
        there = self._listed()  # by a command that was interrupted
        self._done = {path for _, path in self._queue if path.name in there}
        self._left = [shard for shard, path in self._queue if path not in self._done]
        self.images = self._total - sum(len(shard.images) for shard in self._left)
        """Number of images in shards that are done."""
        self._lost: list[PlaceError] = []

    def predict(self, notify: Notify) -> Iterator[None]:
        """Let the places predict what is left, and record it; yields after each shard.

        Args:
            notify: Called at the places with each predicted image.

        Raises:
            NoPlaceError: No place is left, and none can come; or shards have ended all places that they were given to.
            OutOfMemoryError: Memory ran out for two images in a row, or no image could be predicted.
            TiledError: A place reports an error that would end a prediction in one process, too.
        """
        token = Token.new(self._folder)
        work, terms = PredictShard(self._job, token, notify), self._terms(token)
        self._collect()
        short_of_memory = yield from self._predict(work, terms, self._left)
        for shard in short_of_memory:  # what memory there is, is for one image now
            yield from self._predict(work, terms, [replace(shard, alone=True)])
        if self._lost:
            message = f"{len(self._lost)} shards of images ended every place that they were given to. {self._lost[0]}"
            raise NoPlaceError(self._advised(message))

    def _predict(
        self, work: PredictShard, terms: Terms, shards: Sequence[ImageShard]
    ) -> Generator[None, None, list[ImageShard]]:
        """Predict shards; returns those for which there was too little memory."""
        short_of_memory = []
        try:
            with closing(self._scheduler.run(work, shards, terms)) as outcomes:
                for outcome in outcomes:
                    shard, error = outcome.item, outcome.error
                    if error is None:
                        self._finish(shard)
                    elif isinstance(error, OutOfMemoryError) and not shard.alone:
                        short_of_memory.append(shard)
                    elif isinstance(error, PlaceError):
                        self._lost.append(error)
                    else:
                        raise error
                    yield
        except NoPlaceError as error:
            raise NoPlaceError(self._advised(str(error))) from error
        return short_of_memory

    def _terms(self, token: Token) -> Terms:
        """Give what the workers may know of the run, and what places must prove."""
        elsewhere = self._scheduler.prepared_workers(self._conditions).elsewhere
        images = (image for shard in self._left for image in shard.images if is_file(image))
        check = PredictionCheck(self._job, next(images, None) if elsewhere else None)
        return Terms(self._conditions, Proof(versions(), token, Work(check)))

    def _finish(self, shard: ImageShard) -> None:
        """Take a shard that a place reports as done.

        Raises:
            StageError: It is not.
        """
        path = shard.file_in(self._folder)
        if path.name not in self._listed():
            workers = type(self._scheduler.workers).__name__
            message = f"{workers} must predict what it reports as done, but {path} of {shard.name} is missing."
            raise StageError(message)
        self._done.add(path)
        self.images += len(shard.images)
        self._collect()

    def _collect(self) -> None:
        """Record all shards that are done before the first one that is not."""
        while self._queue and self._queue[0][1] in self._done:
            record_part(self._queue.popleft()[1], self._record)

    def _listed(self) -> set[str]:
        """List the files of shards, those included that other machines have just written."""
        refresh(self._folder)
        return {path.name for path in self._folder.iterdir()} if self._folder.is_dir() else set()

    def _advised(self, message: str) -> str:
        return f"{message}\n{self.images} of {self._total} images are done, and stay. Resume with --skip_existing."
