"""The pictures.

From the top down::

    figures.py  errors, costs, published lines, learning rates
    curves.py   losses and errors against epochs
    lines.py    which lines, and their names
    style.py    how pictures look; their files
"""
