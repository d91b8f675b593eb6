"""The parts of a run's time add up to the whole."""

from time import perf_counter, sleep

from normbench.run.spent import PARTS, Spent


def test_the_parts_add_up_to_the_whole_and_the_rest_is_writing() -> None:
    start = perf_counter()
    spent = Spent()
    sleep(0.02)
    spent.started()
    with spent.on("evaluating"):
        sleep(0.02)
    sleep(0.02)
    found = spent.seconds()

    assert tuple(found) == PARTS
    assert 0.06 <= sum(found.values()) <= perf_counter() - start
    assert min(found["start"], found["evaluating"], found["writing"]) >= 0.02
    assert found["training"] == 0


def test_what_is_done_side_by_side_counts_its_share() -> None:
    spent = Spent()
    start = perf_counter()
    for _ in range(2):
        with spent.on("decomposing", side_by_side=2):
            sleep(0.03)
    assert 0.03 <= spent.seconds()["decomposing"] <= (perf_counter() - start) / 2
