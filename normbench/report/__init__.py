"""normbench report: run folders -> tables, pictures, verdicts and one page, and how sure they are.

From the top down; imports only ever go downward::

    writing.py          files and the screen: start reading here
    contents.py         what a report says, in order          appendix.py  its end
    answers.py          the answer in words     fairness.py   what was equal
    tables.py           rows and CSV            verdicts.py   same shape as published?
    figures.py          pictures on the axis    curves.py     pictures along the training
    recipes.py          commands that do it again             document.py  Markdown and HTML
    likeness.py         what differs from a publication
    analysis.py         differences, crossings, what is lost to what, costs
    page.py             the HTML page's style   naming.py     lines and their names
    progress.py         how far it is           plotting.py   how pictures look
    comparisons.py      what may stand in one picture
    regimes.py          what "batch size" means there         groups.py    of each stage
    collection.py       folders -> cells and seeds            wording.py   numbers in words
    published.py        the papers' numbers                   defaults.py  of the settings
    reading.py          files, not believed                   statistics.py  intervals
"""

from normbench.report.writing import Report, show_table, write

__all__ = ["Report", "show_table", "write"]
