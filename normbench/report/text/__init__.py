"""The numbers in words and tables.

From the top down::

    findings.py  the first screen: the grid and a sentence a finding
    tables.py    the other tables, and CSV
    verdicts.py  our differences beside published ones
    fairness.py  what was equal and what was not
    commands.py  commands that train it again
    wording.py   numbers as a person reads them
"""
