"""Stages: the replaceable steps between tile predictions and decisions.

Each module holds one kind: its contract, an abstract class, and the choices that come with the package.
"""
