"""What a person sees on a terminal.

From the top down::

    catalog.py    the norms and the data sets there are
    screen.py     a command at work, and its result
    bars.py       how far it is    tables.py  tables that fit the terminal
    cubes.py      pictures of which values share a mean and a variance
    words.py      how numbers are said
"""
