"""One cell: what it is, how its seeds are trained, saved and put away.

From the top down::

    run.py          the cell, from its configuration to its records: start reading here
    seeds.py        trains the seeds of one stack    views.py      what is said of a cell
    placement.py    how seeds share the machine      autosave.py   when a training is saved
    cell.py         configuration, images, folder    signals.py    SIGTERM and Ctrl-C
"""
