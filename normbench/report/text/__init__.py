"""The numbers in words and tables.

From the top down::

    grid.py      the first table: which norm, or which learning rate
    findings.py  a sentence a finding
    tables.py    the other tables, and CSV
    beside.py    two comparisons side by side
    verdicts.py  our differences beside published ones
    listing.py   a line a cell: what has been trained
    fairness.py  what was equal and what was not
    commands.py  commands that train it again
    wording.py   numbers as a person reads them
"""
