"""Time writing the phantoms: ``python -m benchmarks.phantom``. Bound: 2,000 images of 128 px in 30 s on one core."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from layerscope.data.phantom.write import PhantomKind, write_phantom

IMAGES = 2000
BOUND_SECONDS = 30.0
KINDS: tuple[PhantomKind, ...] = ("fundus", "exact")


def main() -> None:
    """Writes both kinds and prints wall-clock and processor seconds; the writer uses one core."""
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as directory:
            begun, cpu = time.perf_counter(), time.process_time()
            write_phantom(Path(directory) / kind, kind, n=IMAGES)
            wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
        print(
            f"{kind}: {IMAGES} images of 128 px in {wall:.1f} s ({cpu:.1f} s of one core), bound {BOUND_SECONDS:.0f} s"
        )


if __name__ == "__main__":
    main()
