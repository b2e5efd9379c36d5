"""Plugins: the hooks that other packages implement, and finding those packages."""

from anomalib_tiled.plugins.hookspecs import hookimpl

__all__ = ["hookimpl"]
