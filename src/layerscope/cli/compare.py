"""``layerscope compare``: finished runs side by side, with figures, tables and a reading."""

from __future__ import annotations

import argparse
from pathlib import Path


def main(arguments: list[str]) -> int:
    """The verb, from its command line."""
    return run(_parser().parse_args(arguments))


def check(arguments: list[str]) -> None:
    """Reads arguments of runs that may not be there yet, and whether the baseline will be one of them.

    Raises:
        ConfigurationError: it will not. SystemExit: wrong usage, told on stderr.
    """
    from layerscope.report.comparison.runs import candidate_of, check_baseline

    options = _parser().parse_args(arguments)
    check_baseline(options.baseline, list(dict.fromkeys(map(candidate_of, options.runs))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="layerscope compare",
        description="Compares finished runs of one teacher on the same images, diagnoses of VAEs or evaluations of "
        "classifiers: what each loses, how sure that is, and what it costs. Reads the run directories only. For "
        "research only; not for clinical use.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run directory, or NAME=DIR; runs of one name are its training seeds"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory for the comparison")
    parser.add_argument("--baseline", metavar="NAME", help="candidate that the others are held against")
    parser.add_argument(
        "--force", action="store_true", help="compare runs that differ in data or teacher; everything then says so"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier comparison in DIR")
    parser.add_argument(
        "--margin", type=_share, default=0.02, help="difference of macro AUROC that would matter (default .02)"
    )
    parser.add_argument("--level", type=_share, default=0.95, help="of all intervals, between 0 and 1 (default .95)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Compares, writes and prints."""
    from layerscope.artifacts import open_run_directory
    from layerscope.report.bottleneck import AnalysisSettings
    from layerscope.report.comparison.analysis import compare_runs
    from layerscope.report.comparison.console import comparison_text
    from layerscope.report.comparison.files import write_comparison
    from layerscope.report.comparison.runs import read_runs
    from layerscope.report.comparison.sources import sources_of

    runs = read_runs(args.runs)
    settings = AnalysisSettings(margin_macro=args.margin, level=args.level)
    comparison = compare_runs(runs, args.baseline, args.force, settings)
    with open_run_directory(args.output, args.overwrite).staged() as stage:
        write_comparison(comparison, sources_of(runs), stage)
    print(comparison_text(comparison))
    print(f"Wrote {args.output} (comparison.md, comparison.png, tables).")
    return 0


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got {text!r}")
    return value
