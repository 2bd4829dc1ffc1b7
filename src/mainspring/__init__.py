"""Mainspring: the whole AI infrastructure stack from one file."""

__version__ = "0.1.0"
