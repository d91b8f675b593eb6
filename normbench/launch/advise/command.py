"""``normbench advise``: races norms against one another within a budget, and answers.

What is decided is in race.py and answer.py; here it is measured, trained and shown. A race is
resumed by running it again: its plan is in ``advise.json``, its results are those of its cells.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter

from normbench.config import LARGEST_SEED
from normbench.errors import UnfinishedError, UnreadableError, UsageError, first_line
from normbench.files import is_locked, locked
from normbench.launch.advise import page, wording
from normbench.launch.advise.answer import Answer, OnTest, judge
from normbench.launch.advise.book import Finish
from normbench.launch.advise.budget import SEEDS, Entrant, lengths_within, minutes, price
from normbench.launch.advise.elsewhere import elsewhere
from normbench.launch.advise.odds import SEEDS_RACED, detectable
from normbench.launch.advise.question import Question
from normbench.launch.advise.race import LAST_LOOKS, follow
from normbench.launch.advise.rounds import by_seed, train, trained_before
from normbench.launch.choices import USUAL
from normbench.launch.compose import load_config
from normbench.launch.grid import workers_of
from normbench.launch.rates import FACTORS, shortest
from normbench.run.cell import Cell
from normbench.run.estimate import measure
from normbench.store.advice import (
    ADVICE,
    LOCK,
    MOST_TEXT,
    MOST_WORKERS,
    NOTHING,
    Plan,
    Took,
    read_plan,
    read_taken,
    write_plan,
    write_taken,
)
from normbench.store.results import is_done
from normbench.terminal.bars import duration
from normbench.terminal.screen import Screen
from normbench.terminal.words import count

TYPICAL_SD = 0.008
"""Of accuracy, 0..1: the standard deviation over seeds in most of the committed results."""

_UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> float:
    """A time such as ``90s``, ``30m`` or ``1.5h`` in seconds.

    Raises:
        UsageError: it is none.
    """
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([smh])", text.strip())
    if match is None or float(match[1]) == 0:
        raise UsageError(f"--within {text}: must be a time such as 90s, 30m or 3h")
    return float(match[1]) * _UNITS[match[2]]


def advise(
    overrides: Sequence[str],
    screen: Screen,
    *,
    within: float,
    norms: Sequence[str] = USUAL,
    since: float | None = None,
) -> Answer:
    """Finds the best norm for the settings in ``overrides``.

    Args:
        overrides: as on the command line: network, images, batch, length, launcher.
        screen: where the race is shown.
        within: the budget in seconds. Several processes of a launcher share it.
        norms: the names of the norms that race; those that the network cannot have are left out.
        since: when the command began, by ``perf_counter``; now by default.

    Raises:
        UsageError: something about the settings or the folder, or the budget is too small for any
            race; nothing has been trained then.
        UnfinishedError: a training failed.
    """
    since = perf_counter() if since is None else since
    question, cells = Question.of(overrides, norms).fitting(screen)
    most = LARGEST_SEED - SEEDS_RACED
    if cells[0].config.seed > most:
        raise UsageError(
            f"seed={cells[0].config.seed}: a race also takes the seeds after it; at most {most}"
        )
    folder = cells[0].directory.parent
    with ExitStack() as stack:
        held = partial(stack.enter_context, _alone(folder))
        plan = _planned(question, cells, within, since, folder, screen, held)
        return _race(question, plan, folder, screen)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second race out of a folder: it would go by another plan."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK, timeout=0))
        except TimeoutError:
            raise UsageError(
                f"{folder}: another process races here; wait for it, or choose another name=NAME"
            ) from None
        except OSError as error:
            raise _unwritable(folder, error) from None
        yield


def _unwritable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"cannot write to {folder}: {error.strerror}; choose another folder with runs=FOLDER"
    )


def _race(question: Question, plan: Plan, folder: Path, screen: Screen) -> Answer:
    """Runs the race of a plan that is written down, and answers."""
    taken = read_taken(folder)
    for line in forecast(plan, sum(took.seconds for took in taken.values())):
        screen.line(line)
    finish = follow(
        plan, partial(train, question, plan, screen), trained_before(question, plan, taken)
    )
    tests = _tests(question, plan, finish)
    answer = judge(plan, finish, tests)
    if answer.norm is not None:
        final = load_config(question.cell(plan, finish.finals[0]))
        cell = Cell.of(final)
        answer = replace(
            answer,
            command=_command(question, plan, finish),
            code=wording.code(final),
            elsewhere=elsewhere(question, finish, cell),
            chance=wording.at_chance(
                answer, len(cell.images.classes), min(each.images for each in tests.values())
            ),
            peak=final.optim.peak(final.batch),
        )
    _show(answer, folder, screen)
    return answer


def _planned(
    question: Question,
    cells: Sequence[Cell],
    within: float,
    since: float,
    folder: Path,
    screen: Screen,
    hold: Callable[[], object],
) -> Plan:
    """The plan in ``folder``, with another budget if so wanted, or a new one.

    Before it is written, ``hold`` keeps other races out of the folder.
    """
    try:
        plan = read_plan(folder)
    except UnreadableError as error:
        raise UsageError(f"{folder}: {error}; remove {ADVICE} to plan anew") from None
    if plan is not None and not question.is_of(plan, cells):
        raise UsageError(
            f"{folder} holds another race: {' '.join(plan.settings)} --norms"
            f" {','.join(plan.norms)}; choose another name=NAME"
        )
    taken: dict[str, Took] = {}
    done: list[str] = []
    if plan is None:
        if is_locked(folder / LOCK):
            hold()  # which says so, before anything is measured
        plan = _measured(question, cells, since, within, screen)
        hold()
        if (folder / ADVICE).exists():
            raise UsageError(f"{folder}: another process has begun a race here: run this again")
    elif plan.within == within:
        hold()
        if _workers(question) != (plan.workers, plan.divided):
            screen.line(
                f"this race was planned for {count(plan.workers, 'training')} at a time, as another"
                " launcher trains: it may take another time than was foreseen"
            )
        return plan
    else:
        hold()
        taken = read_taken(folder)
        workers, divided = _workers(question)
        plan = replace(plan, workers=workers, divided=divided)
        plan = extended(plan, within, sum(took.seconds for took in taken.values()))
        done = [training for training in taken if is_done(folder / training)]
    try:
        write_plan(folder, plan)
        if taken:
            write_taken(folder, dict.fromkeys(done, NOTHING))
    except OSError as error:
        raise _unwritable(folder, error) from None
    return plan


def extended(plan: Plan, within: float, taken: float) -> Plan:
    """The same race with another budget.

    All that was trained becomes used time, and costs nothing where it is needed again. The race
    keeps its course, and has more or less time for the last trainings; only where what is left pays
    for a whole race with longer ones does it begin anew.

    Args:
        plan: the race so far.
        within: the new budget.
        taken: seconds that its trainings took.

    Raises:
        UsageError: the time is up already.
    """
    spent = plan.used + taken
    if spent >= within:
        raise UsageError(
            f"--within {duration(within)}: this race has taken {duration(spent)} already; give"
            " more, or choose another name=NAME"
        )
    try:
        raced, lengths = lengths_within(
            plan.timings, plan.steps, plan.epochs, within, spent, plan.workers, plan.divided
        )
    except UsageError:
        raced, lengths = 0, []
    if raced <= plan.raced:
        raced, lengths = plan.raced, plan.lengths
    return replace(plan, within=within, raced=raced, lengths=lengths, used=spent)


def _measured(
    question: Question,
    cells: Sequence[Cell],
    since: float,
    within: float,
    screen: Screen,
) -> Plan:
    """A new plan."""
    config, beside = cells[0].config, workers_of(question.launcher)
    workers, divided = _workers(question)
    images, held_out = config.data.num_training(cells[0].images.num_train)
    steps = images // config.batch
    timings = []
    with screen.working("measuring") as bar:
        for number, cell in enumerate(cells):
            norm = cell.config.norm.name
            bar.update(f"measuring {norm} norm", number, len(cells))
            try:
                timings.append(measure(cell, (len(FACTORS), SEEDS), beside.threads))
            except (UsageError, OSError):
                raise
            except Exception as error:  # of a network of one's own, or for want of memory
                raise UnfinishedError(
                    f"a training step of {norm} norm fails: {first_line(error)}; normbench run says"
                    " where, --norms leaves it out"
                ) from error
            alone, together = (timings[-1].step(n) / n for n in (1, SEEDS))
            screen.line(
                f"{norm} norm: {1000 * alone:.2f} ms a step, {1000 * together:.2f} ms a step and"
                f" seed where {SEEDS} train together"
            )
    used = perf_counter() - since
    raced, lengths = lengths_within(timings, steps, config.epochs, within, used, workers, divided)
    return Plan(
        question=question.digest(cells),
        settings=[_printable(text) for text in question.said],
        within=within,
        epochs=config.epochs,
        raced=raced,
        lengths=lengths,
        steps=steps,
        seed=config.seed,
        held_out=held_out,
        lr=config.optim.lr,
        used=used,
        timings=timings,
        workers=workers,
        divided=divided,
    )


def _workers(question: Question) -> tuple[int, bool]:
    """How many trainings a plan reckons with at a time, and whether one round's are divided."""
    beside = workers_of(question.launcher)
    return min(beside.jobs, MOST_WORKERS), beside.divided  # more have nothing to do


def _printable(text: str) -> str:
    """What a plan takes of a setting as it was typed."""
    return "".join(each if each.isprintable() else "?" for each in text)[:MOST_TEXT]


def forecast(plan: Plan, taken: float = 0.0) -> list[str]:
    """What will be trained, and what that can and cannot tell.

    Args:
        plan: of the race.
        taken: the seconds that its trainings took so far.
    """
    looks = len(plan.lengths) + LAST_LOOKS
    clear = detectable(SEEDS, TYPICAL_SD, looks)
    short = " and ".join(count(length, "epoch") for length in plan.lengths)
    raced = count(plan.raced, "epoch")
    workers = plan.workers, plan.divided
    expected = price(plan.timings, plan.steps, plan.raced, plan.lengths, *workers)
    used = duration(plan.used + taken)
    ahead = f"; the race takes about {duration(expected)}, and more seeds if they are needed"
    said = [
        f"budget {duration(plan.within)}, of which {used} are used already"
        + ("; the race goes on" if taken else ahead),
        f"{', '.join(plan.norms)}: trainings of {short} with one seed, then of {raced}"
        f" with {SEEDS} seeds or more",
        f"with {SEEDS} seeds a difference of {100 * clear:.1f} points between two norms would be"
        f" clear, if seeds scatter as usual (SD {100 * TYPICAL_SD:g} points)",
    ]
    if plan.raced < plan.epochs:
        lengths = [shortest(plan.epochs)]
        full = price(plan.timings, plan.steps, plan.epochs, lengths, *workers) + plan.used
        said.append(
            f"the budget does not pay for epochs={plan.epochs}, which takes about {duration(full)}:"
            f" trainings of {raced} tell which rates work and which norm learns faster at first,"
            f" not which is best after {plan.epochs}; leads change with length; for an answer give"
            f" --within {minutes(full)}"
        )
    return said


def _tests(question: Question, plan: Plan, finish: Finish) -> dict[Entrant, OnTest]:
    """How the last trainings did on the test images; nothing before looks at that."""
    found = {}
    for heat in finish.finals:
        cell = Cell.of(load_config(question.cell(plan, heat)))
        results = by_seed(cell.directory)
        for entry in heat.entries:
            result = results[entry.seed]
            images = result.test_images or cell.images.num_test
            found[entry] = OnTest(result.test_accuracy, images, result.memory_bytes)
    return found


def _command(question: Question, plan: Plan, finish: Finish) -> str:
    """What trains the best norm on all training images."""
    heat = replace(finish.finals[0], epochs=plan.epochs)
    dropped = ("data.val_fraction=", "name=", "seed=", "seeds=")
    words = [text for text in question.cell(plan, heat) if not text.startswith(dropped)]
    return shlex.join(["normbench", "run", *words, f"seeds={SEEDS}"])


def _show(answer: Answer, folder: Path, screen: Screen) -> None:
    screen.table("The race", wording.COLUMNS, wording.table(answer), wording.DROPPABLE)
    first, *more = wording.headline(answer)
    screen.line(first, "bold")
    for line in [*more, wording.NOTE, "", answer.command, "", *answer.code.splitlines()]:
        screen.line(line)
    screen.line(f"answer: {page.write(answer, folder)}")
