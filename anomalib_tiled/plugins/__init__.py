"""Plugins: the hooks that other packages implement, and the search for those packages."""

from anomalib_tiled.plugins.hookspecs import hookimpl

__all__ = ["hookimpl"]
