"""Labels of revisions: a version, with which settings, and whether it is a fresh control.

What this is: the one place that makes and reads them. `"3"` is version 3 with the first settings of its endpoint,
`"3.2"` the same version with the second, `"3.2.fresh"` replicas of that which were started anew, to be compared with a
candidate that is as new. `window.revision_name` puts the endpoint before a label, and replicas have a number behind it:
`chat-3.2.fresh-0`. Who calls it: the loop, and whoever reads names. What it must never do: look at the registry.
"""

from __future__ import annotations

FRESH = "fresh"


def label(version: str, generation: int = 1, *, fresh: bool = False) -> str:
    """Name a version with the settings of a generation; the first is left out.

    >>> label("3"), label("3", 2), label("3", fresh=True), label("3", 2, fresh=True)
    ('3', '3.2', '3.fresh', '3.2.fresh')
    """
    named = version if generation <= 1 else f"{version}.{generation}"
    return f"{named}.{FRESH}" if fresh else named


def fresh_of(label: str) -> str:
    """The label of fresh replicas of a revision.

    >>> fresh_of("3"), fresh_of("3.2")
    ('3.fresh', '3.2.fresh')
    """
    return f"{label}.{FRESH}"


def version_number(label: str) -> str:
    """The version in the registry that a label is about.

    >>> version_number("3.2.fresh")
    '3'
    """
    return label.partition(".")[0]


def generation(label: str) -> int:
    """The generation of settings that a label is about; 1 where it says none.

    >>> generation("3"), generation("3.2"), generation("3.fresh")
    (1, 2, 1)
    """
    said = label.removesuffix(f".{FRESH}").partition(".")[2]
    return int(said) if said.isdecimal() else 1


def is_fresh(label: str) -> bool:
    """Whether a label names replicas that were started anew as control.

    >>> is_fresh("3.fresh"), is_fresh("3.2")
    (True, False)
    """
    return label.endswith(f".{FRESH}")


def settled(label: str) -> str:
    """The label without its freshness: what the revision answers with.

    >>> settled("3.2.fresh"), settled("3")
    ('3.2', '3')
    """
    return label.removesuffix(f".{FRESH}")


def endpoint_of(process: str) -> str:
    """The endpoint of a replica's process; endpoints may have hyphens in their names.

    >>> endpoint_of("small-chat-3.2-0")
    'small-chat'
    """
    return process.rsplit("-", 2)[0]


def revision_of(process: str) -> str:
    """The revision of a replica's process.

    >>> revision_of("small-chat-3.2-0")
    'small-chat-3.2'
    """
    return process.rpartition("-")[0]


def label_of(revision: str) -> str:
    """The label in a revision's name.

    >>> label_of("small-chat-3.2")
    '3.2'
    """
    return revision.rpartition("-")[2]
