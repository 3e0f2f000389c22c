"""The command line: verbs, exit statuses and errors. Nothing heavy is imported before a verb needs it.

Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 130 after Ctrl-C, 141 where the
reader of the output ended, 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from layerscope import __version__
from layerscope.errors import ConfigurationError, LayerscopeError, explained_cause

_HELP = """\
usage: layerscope VERB [options]

Finds out where a vision model loses what matters.

verbs:
  demo       from nothing to a diagnosed VAE on phantom images, in minutes
  phantom    write a phantom data set with a known answer
  fit        train a teacher or an autoencoder       fit --config FILE [overrides]
  test       evaluate a teacher, diagnose a VAE      test --config FILE [overrides]
  validate   run a task's validation loop
  predict    run a task's prediction loop
  pair       in which layer two images differ        pair --img1 FILE --img2 FILE
  sweep      many runs of fit or test                sweep test --config FILE --grid KEY=V1,V2
  compare    finished runs side by side              compare RUN... --output DIR
  study      all runs of a recipe                    study --config FILE
  layers     list the layers that can be watched     layers --config FILE [overrides]
  export     write a trained autoencoder as a diffusers folder    export CKPT OUT

options before or after the verb:
  --debug               show the traceback of an error
  --allow-import NAME   let configurations name classes of this package or module too (repeatable)
  --version             print the version and exit
  -h, --help            print this text; after a verb, the verb's own

`layerscope test --config FILE --print_config` shows every setting of a configuration.
"""


@dataclass
class GlobalOptions:
    """What may be given before or after any verb."""

    debug: bool
    allow_import: list[str]


def entry_point() -> None:
    """The console command."""
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit status."""
    options, rest = _split_global_options(list(sys.argv[1:] if argv is None else argv))
    if not rest or rest[0] in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if rest[0] == "--version":
        print(f"layerscope {__version__}")
        return 0
    verbs = _verbs()
    verb, *arguments = rest
    if verb not in verbs:
        close = difflib.get_close_matches(verb, verbs, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        _print_error(f"There is no verb {verb!r}.{hint} The verbs are {', '.join(verbs)}; see layerscope --help.")
        return ConfigurationError.exit_status
    return _guarded(lambda: verbs[verb](arguments, options), options)


def _verbs() -> dict[str, Callable[[list[str], GlobalOptions], int]]:
    def lightning(verb: str) -> Callable[[list[str], GlobalOptions], int]:
        def run(arguments: list[str], options: GlobalOptions) -> int:
            from layerscope.cli.lightning import run_lightning

            return run_lightning(verb, arguments, options.allow_import)

        return run

    def demo(arguments: list[str], options: GlobalOptions) -> int:
        from layerscope.cli.demo import main as run

        return run(arguments)

    def phantom(arguments: list[str], options: GlobalOptions) -> int:
        from layerscope.cli.phantom import main as run

        return run(arguments)

    def pair(arguments: list[str], options: GlobalOptions) -> int:
        from layerscope.cli.pair import main as run

        return run(arguments, options.allow_import)

    def sweep(arguments: list[str], options: GlobalOptions) -> int:
        from layerscope.cli.sweep import main as run

        return run(arguments, options.allow_import)

    def compare(arguments: list[str], options: GlobalOptions) -> int:
        from layerscope.cli.compare import main as run

        return run(arguments)

    def study(arguments: list[str], options: GlobalOptions) -> int:
        from layerscope.cli.study import main as run

        return run(arguments, options.allow_import)

    def layers(arguments: list[str], options: GlobalOptions) -> int:
        from layerscope.cli.layers import main as run

        return run(arguments, options.allow_import)

    def export(arguments: list[str], options: GlobalOptions) -> int:
        from layerscope.cli.export import main as run

        return run(arguments)

    return {
        "demo": demo,
        "phantom": phantom,
        "pair": pair,
        "sweep": sweep,
        "compare": compare,
        "study": study,
        "layers": layers,
        "export": export,
        **{verb: lightning(verb) for verb in ("fit", "validate", "test", "predict")},
    }


def _guarded(run: Callable[[], int], options: GlobalOptions) -> int:
    """Turns every exception into one readable paragraph and an exit status."""
    try:
        return run()
    except LayerscopeError as error:
        if options.debug:
            raise
        _print_error(_told(error))
        return error.exit_status
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has enough; Python would complain again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        _print_error("Stopped by Ctrl-C. No result was written.")
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        if options.debug:
            raise
        if (cause := explained_cause(error)) is not None:
            _print_error(_told(cause))
            return cause.exit_status
        first_line = _told(error).strip().split("\n\n")[0]
        _print_error(f"{type(error).__name__}: {first_line} (run again with --debug for the traceback)")
        return LayerscopeError.exit_status


def _told(error: Exception) -> str:
    """What the error says; from a worker process of a DataLoader it comes with that process's traceback around it."""
    text = str(error)
    if not text.startswith("Caught ") or "Original Traceback" not in text:
        return text
    started = list(re.finditer(rf"^(?:[\w.]+\.)?{re.escape(type(error).__name__)}: ", text, flags=re.MULTILINE))
    return text[started[-1].end() :] if started else text.strip().splitlines()[-1]


def _split_global_options(argv: list[str]) -> tuple[GlobalOptions, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--allow-import", action="append", default=[], metavar="NAME")
    known, rest = parser.parse_known_args(argv)
    return GlobalOptions(known.debug, known.allow_import), rest


def _print_error(message: str) -> None:
    paragraph = " ".join(message.split())
    if sys.stderr.isatty():
        print(file=sys.stderr)  # a progress bar leaves the cursor at the end of its line
    print(
        textwrap.fill(f"layerscope: error: {paragraph}", width=100, break_long_words=False, break_on_hyphens=False),
        file=sys.stderr,
    )
