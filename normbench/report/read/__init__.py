"""Records of a folder -> cells and seeds. Nothing found on disk is believed or changed.

From the top down::

    states.py    how far cells are, in words
    settings.py  what settings mean: the groups of group norm
    cells.py     folders -> cells and seeds
    seeds.py     folders of seeds -> how far each is, and what it has left
    defaults.py  what settings are unless they are given
    files.py     configurations, environments and curves, checked
"""
