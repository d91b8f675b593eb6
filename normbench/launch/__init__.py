"""From a line of settings to trained cells; the only folder that knows Hydra and OmegaConf.

From the top down::

    grid.py       a sweep's settings -> its cells -> Hydra's launchers
    sweep.py      the cells of a sweep: which are left to train, what becomes of each
    compose.py    settings -> configuration, or one line that says what is wrong
"""
