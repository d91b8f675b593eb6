"""What choosing a learning rate from single trainings costs, derived from recorded trials of rates.

    python scripts/choice_spread.py [results/rates/rates.csv]

For each norm and batch size, the held-out error is a parabola over log2 of the rate (least
squares). A race tries rates a factor of two apart, at any offset from the best, and takes the one
whose error, with the noise of one seed and of the held-out images, is lowest. Printed is what it
then loses, in points: the mean, and the standard deviation, for which ``CHOICE_SD`` of
normbench/launch/advise/odds.py stands.
"""

import csv
import sys
from collections import defaultdict
from math import sqrt
from pathlib import Path

import numpy as np

RATES = Path(__file__).parents[1] / "results" / "rates" / "rates.csv"

SEED_SD = 0.8
"""Points: the standard deviation over seeds in most of the committed results."""

HELD_OUT = 5000
"""Images that were held out in these trials."""

DRAWS = 100_000


def main() -> None:
    """Prints a line a norm and batch size."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RATES
    curves: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["held_out_error"]:
                point = float(row["learning_rate"]), float(row["held_out_error"])
                curves[row["norm"], row["batch"]].append(point)
    random = np.random.default_rng(0)
    for (norm, batch), points in curves.items():
        rates, errors = np.array(points).T
        bend, _, _ = np.polyfit(np.log2(rates), errors, 2)
        share = errors.min() / 100
        noise = sqrt(SEED_SD**2 + 1e4 * share * (1 - share) / HELD_OUT)
        places = np.arange(-2, 3) + random.uniform(-0.5, 0.5, (DRAWS, 1))
        lost = bend * places**2
        taken = (lost + noise * random.standard_normal(lost.shape)).argmin(axis=1)
        found = lost[np.arange(DRAWS), taken]
        print(
            f"{norm:>6} {batch:>4}: {bend:.2f} points a squared doubling;"
            f" lost {found.mean():.2f}, SD {found.std():.2f}"
        )


if __name__ == "__main__":
    main()
