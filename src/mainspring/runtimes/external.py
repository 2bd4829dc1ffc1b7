"""A server that runs elsewhere, behind a URL: Mainspring forwards to it, and watches whether it is well."""

from __future__ import annotations

from mainspring.runtimes.descriptor import Runtime

EXTERNAL = Runtime(
    "external", "a server elsewhere", "predictive", runs=True, formats=("external",), weights="external",
    module="mainspring.replicas.external", foreign=True,
    note="`protocol: openai` makes it a language endpoint; where it is, its key and its limits come with the version",
)  # fmt: skip
