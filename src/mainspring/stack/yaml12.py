"""YAML 1.2 read into nodes that know where they stand; nothing is ever built from a tag.

What this is: the first of the two passes over a stack file: bytes to a tree of `Node`, with all syntax errors,
duplicate keys and hostile shapes (deep nesting, alias bombs, huge files) found and counted on the way.
Who calls it: `load.py`. What it must never do: recurse over input, or take time that is not linear in its size.

`on`, `no` and `yes` are words, `12:30` is a word, `010` is ten, `0o10` is eight: the core schema of YAML 1.2.
Dates stay words; the models read them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

MAX_BYTES = 1_000_000
"""The largest file that is read."""
MAX_DEPTH = 32
"""The deepest nesting; a stack file needs eight."""
MAX_NODES = 50_000
"""The most values in a file, those that aliases repeat counted each time."""
MAX_ALIASES = 50
"""The most aliases (`*name`) in a file."""

_INT = re.compile(r"[-+]?[0-9]{1,18}")
_LONG_INT = re.compile(r"[-+]?[0-9]{19,}")
_BASED_INT = re.compile(r"0o[0-7]{1,20}|0x[0-9a-fA-F]{1,15}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip

_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # libyaml where PyYAML was built with it


@dataclass(slots=True)
class Node:
    """A value of the file and where it begins (1-based)."""

    kind: Literal["scalar", "list", "map"]
    line: int
    column: int
    value: str | int | float | bool | None = None
    items: list[Node] = field(default_factory=list)
    entries: dict[str, tuple[Node, Node]] = field(default_factory=dict)  # text of the key: (key, value)
    weight: int = 1  # values in it, aliases counted in full
    height: int = 1  # levels of nesting in it
    pending: Node | None = None  # while a map is read: its key that waits for a value

    def data(self) -> Any:
        """The plain value: dicts, lists and scalars. Depth is bounded by `MAX_DEPTH`."""
        if self.kind == "map":
            return {key: value.data() for key, (_, value) in self.entries.items()}
        if self.kind == "list":
            return [item.data() for item in self.items]
        return self.value


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something wrong with the text itself."""

    code: str
    message: str
    line: int
    column: int
    path: str = ""


class _Stop(Exception):
    """Reading can't go on; the flaw that says why has been noted."""


def scalar(text: str) -> str | int | float | bool | None:
    """Read a plain scalar by the core schema; raise `ValueError` for numbers that no setting can hold."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _BASED_INT.fullmatch(text):
        return int(text, 0)
    if _NOT_FINITE.fullmatch(text) or _LONG_INT.fullmatch(text):
        raise ValueError(f"`{text[:40]}` is not a number that can be used here: write a finite one")
    if len(text) <= 64 and _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"`{text}` is too large: write a finite number")
        return number
    return text


class _Reader:
    """One pass over the parser's events, with a stack of its own instead of recursion."""

    def __init__(self) -> None:
        self.flaws: list[Flaw] = []
        self.anchors: dict[str, Node] = {}
        self.open: list[tuple[Node, str | None]] = []
        self.root: Node | None = None
        self.nodes = 0
        self.aliases = 0
        self.documents = 0

    def flaw(self, code: str, message: str, mark: Any, *, stop: bool = False) -> None:
        self.flaws.append(Flaw(code, message, mark.line + 1, mark.column + 1, self.path()))
        if stop or len(self.flaws) >= 100:
            raise _Stop

    def path(self) -> str:
        """The dotted path of the value that is being read."""
        pieces: list[str] = []
        for node, _ in self.open:
            if node.kind == "list":
                pieces.append(str(len(node.items)))
            elif node.pending is not None:
                pieces.append(str(node.pending.value))
        return ".".join(piece[:40] for piece in pieces)

    def run(self, text: str) -> None:
        loader = _LOADER(text)
        try:
            while loader.check_event():
                self.take(loader.get_event())
        finally:
            loader.dispose()

    def take(self, event: Any) -> None:
        mark = event.start_mark
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self.flaw("two-documents", "a second document begins with `---`: a stack file is one", mark, stop=True)
        elif isinstance(event, yaml.AliasEvent):
            self.alias(event.anchor or "", mark)
        elif isinstance(event, yaml.ScalarEvent):
            self.count(1, mark)
            self.tagged(event)
            self.place(self.read(event), event.anchor)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self.begin(event, "map" if isinstance(event, yaml.MappingStartEvent) else "list")
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            node, anchor = self.open.pop()
            self.place(node, anchor)

    def begin(self, event: Any, kind: Literal["map", "list"]) -> None:
        mark = event.start_mark
        self.count(1, mark)
        self.tagged(event)
        if len(self.open) >= MAX_DEPTH:
            self.flaw("too-deep", f"nested more than {MAX_DEPTH} levels deep", mark, stop=True)
        if self.open and self.open[-1][0].kind == "map" and self.open[-1][0].pending is None:
            self.flaw(
                "bad-key", "a list or a mapping can't be a key here: write a word before the `:`", mark, stop=True
            )
        if event.anchor:
            self.anchors.pop(event.anchor, None)  # an alias to what is still open would contain itself
        self.open.append((Node(kind, mark.line + 1, mark.column + 1), event.anchor))

    def count(self, weight: int, mark: Any) -> None:
        self.nodes += weight
        if self.nodes > MAX_NODES:
            self.flaw("too-many-values", f"more than {MAX_NODES} values (aliases counted in full)", mark, stop=True)

    def tagged(self, event: Any) -> None:
        if event.tag is not None:
            self.flaw("tag", f"the tag `{event.tag[:60]}` is not read: write a plain value", event.start_mark)

    def read(self, event: Any) -> Node:
        mark = event.start_mark
        value: str | int | float | bool | None = event.value
        if event.implicit[0] and event.style in (None, ""):
            try:
                value = scalar(event.value)
            except ValueError as error:
                self.flaw("not-finite", str(error), mark)
                value = None
        waits_for_key = self.open and self.open[-1][0].kind == "map" and self.open[-1][0].pending is None
        if waits_for_key:
            value = event.value  # a key is the word as written: `on:` and `1:` too
        return Node("scalar", mark.line + 1, mark.column + 1, value)

    def alias(self, name: str, mark: Any) -> None:
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            self.flaw("aliases", f"more than {MAX_ALIASES} aliases: write the values out", mark, stop=True)
        node = self.anchors.get(name)
        if node is None:
            self.flaw(
                "unknown-alias", f"`*{name[:40]}` stands for nothing: no `&{name[:40]}` before it", mark, stop=True
            )
            return
        self.count(node.weight, mark)
        if len(self.open) + node.height > MAX_DEPTH:
            self.flaw("too-deep", f"nested more than {MAX_DEPTH} levels deep", mark, stop=True)
        self.place(node, None)

    def place(self, node: Node, anchor: str | None) -> None:
        """Put a finished value where it belongs: into the open list or map, or at the root."""
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.open:
            self.root = node
            return
        parent = self.open[-1][0]
        if parent.kind == "map" and parent.pending is None:
            if node.kind != "scalar":
                mark = _Mark(node.line - 1, node.column - 1)
                self.flaw(
                    "bad-key", "a list or a mapping can't be a key here: write a word before the `:`", mark, stop=True
                )
            parent.pending = node
            return
        parent.weight += node.weight
        parent.height = max(parent.height, node.height + 1)
        if parent.kind == "list":
            parent.items.append(node)
            return
        key, parent.pending = parent.pending, None
        assert key is not None  # a map's value always follows its key
        self.entry(parent, key, node)

    def entry(self, parent: Node, key: Node, node: Node) -> None:
        text = str(key.value)
        if text in parent.entries:
            first = parent.entries[text][0]
            message = f"`{text[:60]}` is set twice: first on line {first.line}, column {first.column}"
            parent.pending = key
            self.flaw("duplicate-key", message, _Mark(key.line - 1, key.column - 1))
            parent.pending = None
            return
        parent.entries[text] = (key, node)


@dataclass(frozen=True, slots=True)
class _Mark:
    line: int
    column: int


def compose(text: bytes) -> tuple[Node | None, list[Flaw]]:
    """Read a file's bytes into its root node, with all that is wrong with them. No root: nothing could be read."""
    if len(text) > MAX_BYTES:
        return None, [Flaw("too-large", f"{len(text):,} bytes or more: a stack file has {MAX_BYTES:,} at most", 0, 0)]
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        column = error.start - text.rfind(b"\n", 0, error.start)
        return None, [Flaw("not-utf8", f"byte {error.start} is not UTF-8: save the file as UTF-8", line, column)]
    reader = _Reader()
    try:
        reader.run(decoded)
    except _Stop:
        reader.root = None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reader.root = None
        reader.flaws.append(_syntax(error, decoded, reader.path()))
    if reader.root is None and not reader.flaws:
        reader.flaws.append(Flaw("empty", "the file is empty", 0, 0))
    return reader.root, reader.flaws


def _syntax(error: Exception, text: str, path: str) -> Flaw:
    """A parser's complaint in our words, where it was met."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:  # a character that YAML forbids; the readers give its place as an offset, if at all
        at = next((i for i, c in enumerate(text) if _forbidden(c)), 0)
        line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
        return Flaw("syntax", f"the character `U+{ord(text[at]):04X}` can't stand in a YAML file", line, column, path)
    said = str(getattr(error, "problem", "") or "can't be read as YAML")
    context = getattr(error, "context", None)
    line_text = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
    if "\t" in line_text[: mark.column + 1] and "token" in said:
        said, context = "a tab is used to indent: write spaces", None
    start = getattr(error, "context_mark", None)
    since = f" ({context}, begun on line {start.line + 1})" if context and start else ""
    return Flaw("syntax", f"not YAML: {said[:200]}{since}", mark.line + 1, mark.column + 1, path)


def _forbidden(char: str) -> bool:
    code = ord(char)
    return (
        (code < 0x20 and char not in "\t\n\r") or code == 0x7F or 0xD800 <= code <= 0xDFFF or code in (0xFFFE, 0xFFFF)
    )
