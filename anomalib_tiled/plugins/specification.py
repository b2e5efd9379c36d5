"""The hooks that a plugin may implement.

A plugin is a module or object with functions of these names, each marked with ``@hookimpl``, that is named in the
entry-point group ``anomalib_tiled`` of its package. Every hook returns classes; a class becomes a choice by its name,
and only the configuration chooses. The built-in stages come in through the same hooks.

    from anomalib_tiled import hookimpl

    @hookimpl
    def register_seam_smoothers():
        return [Bilateral]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib_tiled.stages.merging import Merger
    from anomalib_tiled.stages.normalization import Normalizer
    from anomalib_tiled.stages.scoring import Scorer
    from anomalib_tiled.stages.seams import SeamSmoother
    from anomalib_tiled.stages.thresholding import Thresholder

GROUP = "anomalib_tiled"
"""Name of the entry-point group, and of the hooks in pluggy."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Hooks:
    """The hooks, one for each kind of stage."""

    @hookspec
    def register_mergers(self) -> Sequence[type[Merger]]:  # type: ignore[empty-body]
        """Give classes that join tile maps to image maps."""

    @hookspec
    def register_scorers(self) -> Sequence[type[Scorer]]:  # type: ignore[empty-body]
        """Give classes that make an image score of tile scores."""

    @hookspec
    def register_seam_smoothers(self) -> Sequence[type[SeamSmoother]]:  # type: ignore[empty-body]
        """Give classes that smooth maps where tiles meet."""

    @hookspec
    def register_normalizers(self) -> Sequence[type[Normalizer]]:  # type: ignore[empty-body]
        """Give classes that bring scores to [0, 1]."""

    @hookspec
    def register_thresholders(self) -> Sequence[type[Thresholder]]:  # type: ignore[empty-body]
        """Give classes that find the score above which is anomalous."""

    @hookspec
    def register_workers(self) -> Sequence[type]:  # type: ignore[empty-body]
        """Give classes that train tiles."""
