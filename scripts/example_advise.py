"""An example of normbench from Python: which norm, at which learning rate, and how sure.

    python scripts/example_advise.py [KEY=VALUE]...

Races batch and group norm at batch size 2 within half an hour on the images at hand; further
settings as on the command line, for example epochs=1 data=synthetic data.limit=500.
"""

from __future__ import annotations

import sys

from normbench import advise


def main() -> None:
    """Races, and prints the verdict, a line a norm, and the code that uses the best."""
    answer = advise("batch=2", *sys.argv[1:], norms=["batch", "group"], within="30m")
    print(f"{answer.verdict}: {answer.norm} norm")
    for record in answer.to_records():
        error, half = record["error"], record["half"]
        said = "diverged" if error is None or half is None else f"{error:.1%} ± {half:.1%} error"
        print(f"{record['norm']:>8} norm, optim.lr={record['lr']}: {said}")
    print(answer.code)


if __name__ == "__main__":
    main()
