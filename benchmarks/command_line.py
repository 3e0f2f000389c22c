"""Time to the first answer of the command line. Asked: ``layerscope --help`` under 0.5 s."""

from __future__ import annotations

import subprocess
import sys
import time


def main() -> None:
    """Prints the median of five runs of each."""
    for argument in ("--help", "--version"):
        seconds = []
        for _ in range(5):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-m", "layerscope", argument], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - begun)
        print(f"layerscope {argument}: {sorted(seconds)[2]:.2f} s (asked: under 0.5 s)")


if __name__ == "__main__":
    main()
