"""``make bench``: every figure of docs/benchmarks.md, printed in one run."""

from __future__ import annotations

import datetime
import os
import platform

import torch

from benchmarks import command_line, comparison, diagnosis, pairs, phantom, statistics, tokens, training


def main() -> None:
    """Prints the machine and runs every benchmark."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} CPU cores, {device}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )
    for benchmark in (command_line, phantom, statistics, comparison, diagnosis, training, pairs, tokens):
        print(f"\n== {benchmark.__name__.split('.')[-1]}")
        benchmark.main()


if __name__ == "__main__":
    main()
