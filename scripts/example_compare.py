"""An example of normbench from Python: compares norms at a small batch and prints the table.

    python scripts/example_compare.py [KEY=VALUE]...

Trains batch and group norm at batch size 2 with three seeds on the images at hand; further settings
as on the command line, for example epochs=1 data=synthetic data.limit=500.
"""

from __future__ import annotations

import sys

from normbench import compare


def main() -> None:
    """Compares, and prints a line a norm."""
    comparison = compare(*sys.argv[1:], norms=["batch", "group"], batches=[2], seeds=3)
    for record in comparison.to_records():
        error, half = record["error"], record["half"]
        said = "did not finish" if error is None or half is None else f"{error:.1%} ± {half:.1%}"
        print(f"{record['norm']:>8} norm, batch {record['batch']}: {said} test error")


if __name__ == "__main__":
    main()
