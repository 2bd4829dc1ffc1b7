"""`mainspring`: the command line's shell: verbs found lazily, options shared by all, errors told with the next step.

What this is: the entry point; each verb is a file beside this one, imported when it is used. Who calls it: a person,
scripts. What it must never do: import pydantic, numpy or rich for `--help`, or show a traceback unasked.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mainspring import __version__
from mainspring.cli.output import FORMATS, Options
from mainspring.errors import MainspringError, StackError

VERBS: dict[str, tuple[str, str]] = {
    "init": ("init:init", "Write a small stack that works, to start from."),
    "validate": ("validate:validate", "Read the stack file and show every problem in it."),
    "explain": ("explain:explain", "Say what a place in the stack file means."),
    "schema": ("validate:schema", "Print the stack file's JSON schema, for editors."),
    "plan": ("plan:plan", "Show what would change, what it costs, whether it meets its objective."),
    "up": ("up:up", "Bring the stack up, and keep it so."),
    "down": ("down:down", "Stop everything; nothing is deleted."),
    "status": ("status:status", "Show the loop at a glance."),
    "logs": ("logs:logs", "Show what a process said."),
    "events": ("events:events", "Show what happened, and why."),
    "doctor": ("doctor:doctor", "Check this machine, with a remedy for each trouble."),
    "demo": ("demo:demo", "Run an example from beginning to end."),
    "backup": ("backup:backup", "Save the state folder to one file."),
    "restore": ("restore:restore", "Bring a saved state folder back."),
    "run": ("run:run", "Run a pipeline now."),
    "runs": ("runs:runs", "List, show and compare runs."),
    "models": ("models:models", "Add, list, show, trust and promote versions of models."),
    "runtime": ("runtime:runtime", "List, install, check and remove model servers."),
    "gate": ("gate:gate", "Put a version through the gates."),
    "quantize": ("quantize:quantize", "Convert a version's weights to fewer bits, and have it judged."),
    "rollout": ("rollout:rollout", "See, steer and report a rollout; work out what it can find out."),
    "keys": ("keys:keys", "Make, list, rotate and revoke tokens, with limits or roles."),
    "changes": ("changes:changes", "Show who changed what, and when."),
    "approve": ("approve:approve", "Let a step begin that waits for approval."),
    "bench": ("bench:bench", "Put a load on an endpoint, and say what it did."),
    "simulate": ("simulate:simulate", "Let the autoscaler run through a day, in seconds."),
    "drift": ("drift:drift", "Show how far inputs and predictions have moved."),
    "cost": ("cost:cost", "Show what it costs."),
    "calibrate": ("calibrate:calibrate", "Fit the forecasts to measurements of your own endpoint."),
    "catalog": ("catalog:catalog", "Show the GPUs, prices and models that are known, and this machine."),
}
"""Each verb: `module:command` in `mainspring.cli`, and its line of help."""


class Verbs(click.Group):
    """The verbs of `VERBS`, in that order, imported when invoked."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs that are there."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb's module and give it the shared options that it does not have itself."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module, _, name = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"mainspring.cli.{module}"), name)
        _share(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; an unknown one is an error that names the nearest."""
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            import difflib

            near = difflib.get_close_matches(args[0][:40], self.list_commands(ctx), n=1)
            meant = f"; did you mean `{near[0]}`?" if near else ""
            raise click.UsageError(f"there is no verb `{args[0][:40]}`{meant}", ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from the table, importing none."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, VERBS[verb][1]) for verb in self.list_commands(ctx)])


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Note a shared option; one given after the verb wins over one given before it."""
    options = ctx.ensure_object(Options)
    if value is not None and value is not False:
        name = param.name or ""
        setattr(options, {"no_color": "color"}.get(name, name), value if name != "no_color" else False)


def _shared() -> list[click.Option]:
    keep: dict[str, Any] = {"callback": _keep, "expose_value": False, "is_eager": True}
    return [
        click.Option(
            ["-f", "--file"], type=click.Path(path_type=Path), envvar="MAINSPRING_FILE", metavar="FILE",
            help="The stack file.  [default: mainspring.yaml]", **keep,
        ),
        click.Option(["-o", "--output"], type=click.Choice(FORMATS), help="How data is written.", **keep),
        click.Option(["--debug"], is_flag=True, help="Show tracebacks.", **keep),
        click.Option(["--no-color"], is_flag=True, help="Write without colour.", **keep),
    ]  # fmt: skip


def _share(command: click.Command) -> None:
    """Add the shared options to a verb (and to its own verbs), save those whose flags it uses itself."""
    taken = {flag for param in command.params if isinstance(param, click.Option) for flag in param.opts}
    names = {param.name for param in command.params}
    command.params += [o for o in _shared() if not taken & set(o.opts) and o.name not in names]
    if isinstance(command, click.Group):
        for child in command.commands.values():
            _share(child)


@click.group(cls=Verbs, params=list(_shared()), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(version)s")
def cli() -> None:
    """The whole AI infrastructure stack from one file."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 bad input, 3 a gate or an objective not met."""
    sys.exit(status(list(sys.argv[1:] if arguments is None else arguments)))


def status(arguments: list[str]) -> int:
    """Run one command line; give the exit status."""
    options = Options(color=_color())
    try:
        done = cli.main(
            arguments, prog_name="mainspring", standalone_mode=False, obj=options, color=_click_color(arguments)
        )
    except StackError as error:
        _problems(error)
        return _end(error, options)
    except MainspringError as error:
        _say(error.message, error.hint)
        return _end(error, options)
    except click.ClickException as error:
        return _usage(error)
    except (click.Abort, KeyboardInterrupt):
        _say("stopped by you")
        return 130
    except BrokenPipeError:
        # whoever read our output has gone; nothing more can be said to them
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        return _unexpected(error, options)
    return done if isinstance(done, int) else 0


def _color() -> bool:
    return not os.environ.get("NO_COLOR") and sys.stdout.isatty()


def _click_color(arguments: list[str]) -> bool | None:
    """False: click strips colour; None: it does so unless a terminal reads."""
    return False if os.environ.get("NO_COLOR") or "--no-color" in arguments else None


def _say(message: str, hint: str = "") -> None:
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"\nhint: {hint}", err=True)


def _problems(error: StackError) -> None:
    """All problems of a stack file, a line each, then the hints that differ."""
    for problem in error.problems:
        click.echo(f"error: {problem}" if problem.code != "more-problems" else f"({problem.message})", err=True)
    hints = list(dict.fromkeys(problem.hint for problem in error.problems if problem.hint))
    if hints:
        click.echo("", err=True)
    for hint in hints[:5]:
        click.echo(f"hint: {hint}", err=True)


def _end(error: MainspringError, options: Options) -> int:
    if options.debug:
        click.echo(_trace(error), err=True)
    return error.exit_status


def _trace(error: Exception) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


def _usage(error: click.ClickException) -> int:
    """Click's complaint in our form. No verb at all shows the help."""
    ctx = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        click.echo(error.format_message(), err=True)
        return 2
    path = ctx.command_path if ctx is not None else "mainspring"
    message = error.format_message().rstrip(".")
    _say(message[:1].lower() + message[1:], f"{path} --help")
    return 2


def _unexpected(error: Exception, options: Options) -> int:
    """One line, and the path of a log with the traceback."""
    trace = _trace(error)
    said = " ".join(str(error).split())[:300]
    _say(f"unexpected {type(error).__name__}: {said}" if said else f"unexpected {type(error).__name__}")
    if options.debug:
        click.echo(trace, err=True)
        return 1
    log = _log(trace, options)
    click.echo(f"\nhint: the traceback is in {log}" if log else "\nhint: say it again with --debug", err=True)
    return 1


def _log(trace: str, options: Options) -> Path | None:
    """Write a traceback to the state folder's logs, or to the temporary folder."""
    import tempfile
    from datetime import datetime, timezone

    now = datetime.now(timezone.utc)
    name = f"mainspring-{now:%Y%m%dT%H%M%SZ}-{os.getpid()}.log"
    places = [options.state / "logs"] if options.state.is_dir() else []
    for place in [*places, Path(tempfile.gettempdir())]:
        try:
            place.mkdir(exist_ok=True)
            path = place / name
            path.write_text(f"mainspring {__version__}: {' '.join(sys.argv[1:])}\n{trace}", encoding="utf-8")
        except OSError:
            continue
        return path
    return None


if __name__ == "__main__":
    main()
