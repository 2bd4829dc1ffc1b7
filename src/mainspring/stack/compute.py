"""Section 1, `compute`: what there is."""

from __future__ import annotations

from typing import Literal

from mainspring.stack.base import Section
from mainspring.stack.units import Price


class Pool(Section):
    """A pool of machines to run on."""

    machine: Literal["this"]
    """Which machine: `this` one. (Other kinds come with Kubernetes.)"""
    price: Price = 0.0
    """What the machine costs while it is up, such as `$0.10/h`. Default: free."""
