"""The one error tree. Everything that Mainspring raises for a person is one of these.

    MainspringError                 code, message (the value in backticks), hint (the next command)
    ├── StackError                  the stack file is wrong: file, line, column, path   (exit 2)
    ├── InputError                  a command line or API argument is wrong             (exit 2)
    ├── EnvironmentError_           the machine is in the way: port, folder, disk       (exit 1)
    ├── UserCodeError               the user's own function raised, hung, returned junk (exit 1)
    ├── ArtefactError               a model artefact is missing, tampered or unfit      (exit 1)
    ├── Conflict                    a fence did not hold: the world moved on            (exit 1)
    └── ObjectiveNotMet             a gate or an objective was not met                  (exit 3)

What this is: the base of every error that reaches a person. Who calls it: everybody.
What it must never do: import anything of Mainspring.
"""

from __future__ import annotations

from dataclasses import dataclass


class MainspringError(Exception):
    """Say what failed in one line, with the value in backticks, and name the next command.

    `code` is stable (kebab-case) and may be relied on by scripts.
    """

    exit_status = 1

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class InputError(MainspringError):
    """A command-line or API argument is wrong."""

    exit_status = 2


class EnvironmentError_(MainspringError):  # noqa: N801 (the plain name is Python's own)
    """The machine is in the way: a port in use, a read-only folder, a full disk."""


class UserCodeError(MainspringError):
    """The user's own function raised, hung, was killed, or returned something unusable."""


class ArtefactError(MainspringError):
    """A model artefact is missing, tampered with, or does not fit what is asked of it."""


class Conflict(MainspringError):
    """A fence did not hold: what the plan was made from has changed since."""


class ObjectiveNotMet(MainspringError):
    """A gate or an objective was not met; the work itself went well."""

    exit_status = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a stack file, where a person can find it."""

    code: str
    message: str
    path: str  # "serving.delay.replicas"
    file: str
    line: int  # 1-based; 0 when the file as a whole is meant
    column: int  # 1-based
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        path = f"{self.path}: " if self.path else ""
        return f"{where}: {path}{self.message}"


class StackError(MainspringError):
    """The stack file is wrong; `problems` holds all of them, in file order."""

    exit_status = 2

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(first.code, f"{first}{more}", first.hint)
        self.problems = problems
