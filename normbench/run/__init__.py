"""One cell: what it is, how its replicas are trained, saved and put away.

From the top down::

    run.py          cells, from their configurations to their records: start reading here
    stacks.py       which replicas are trained together, and which had begun
    seeds.py        trains the replicas of one stack    views.py      what is said of a cell
    curves.py       what is recorded meanwhile          ending.py     what is written in the end
    arranging.py    how they share the machine          remembered.py  what was the fastest here
    placement.py    lanes and stacks, and timing them
    autosave.py     when a training is saved            machine.py    device, threads and memory
    cell.py         a configuration, its images and its folder; a replica is one of its seeds
    spent.py        what the time goes to               signals.py    SIGTERM and Ctrl-C
    trained.py      a network in a file, diagnosed      diagnose.py   what running statistics cost
    remedies.py     the advice that follows from it     estimate.py   how long cells will take
"""
