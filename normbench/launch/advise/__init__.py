"""``normbench advise``: which norm, with which learning rate, within a budget.

From the top down::

    command.py     measures, has the race run, shows its answer: start reading here
    rounds.py      trains the rounds of a race, and shows how it stands
    page.py        the answer as a document, for a page and a notebook
    wording.py     the answer in words, and in lines of Python
    pictures.py    errors with their intervals, drawn
    answer.py      who has won, how sure that is, and what would change it
    elsewhere.py   at which other batch size another norm wins
    race.py        which trainings come next, and who drops out
    book.py        what has been trained so far, and how the norms stand
    budget.py      what trainings take, and how long they can be
    question.py    the settings, and the cells that they make
    odds.py        how sure a difference is
"""
