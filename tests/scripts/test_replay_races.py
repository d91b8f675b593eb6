"""The replayed races: a few are run again, and come out as the committed table has them."""

import csv
from pathlib import Path

from tests.script_helpers import run_script

ROOT = Path(__file__).parents[2]


def lines(path: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {(r["world"], r["budget"], r["race"]): r for r in csv.DictReader(file)}


def test_some_races_end_as_in_the_committed_table(tmp_path: Path) -> None:
    records = ("--records", str(ROOT / "results"))
    run_script(
        "replay_races.py", "--out", str(tmp_path), *records, "--races", "2", "--simulated", "4"
    )

    found, committed = (
        lines(folder / "replay.csv") for folder in (tmp_path, ROOT / "results" / "advise")
    )
    assert len({world for world, *_ in found}) >= 9
    assert {key: committed[key] for key in found} == found
    assert (tmp_path / "replay.md").read_text(encoding="utf-8").startswith("# Replayed races")


def test_of_the_committed_firm_answers_one_in_twenty_at_most_is_wrong() -> None:
    committed = lines(ROOT / "results" / "advise" / "replay.csv").values()
    for kind in ("simulated", "harsh", "batch"):
        firm = [
            line
            for line in committed
            if line["verdict"] == "clear" and line["world"].startswith(kind)
        ]
        assert len(firm) >= 100
        assert sum(line["wrong"] == "True" for line in firm) <= 0.05 * len(firm)
