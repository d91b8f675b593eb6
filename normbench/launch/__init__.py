"""From a line of settings to trained cells; the only folder that knows Hydra and OmegaConf.

From the top down::

    notebook.py   advice and comparisons from Python
    advise/       races norms against one another within a budget
    grid.py       a sweep's settings -> its cells -> Hydra's launchers
    sweep.py      trains the cells of a sweep, whatever becomes of who trains them
    planned.py    the cells of a sweep: what is left of each, which are launched together
    rates.py      optim.lr=auto: each cell's learning rate, chosen on held-out images
    course.py     how long a sweep will take, and where it is
    recorded.py   settings of weights, as they are recorded beside them
    compose.py    settings -> configuration, or one line that says what is wrong
    hints.py      what was probably meant
    choices.py    what can be set, read off the sources: completion cannot wait for torch
"""
