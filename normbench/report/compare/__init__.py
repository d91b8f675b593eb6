"""What may be compared, and what a comparison says in numbers with intervals.

From the top down::

    choice.py       which norm at each batch size, how sure, at what cost; chance
    rates.py        learning rates tried on held-out images
    costs.py        time and memory, and whether times can be believed
    differences.py  differences, what is lost to what, new test images
    comparisons.py  cells -> comparisons of lines
    recipes.py      which cells differ in nothing else
    regimes.py      what "batch size" means in a comparison
    crossing.py     where two lines cross
    published.py    published numbers, with their sources
    statistics.py   Welch, Holm, equivalence, how many seeds
"""
