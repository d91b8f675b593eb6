"""normbench report: folders of records -> tables, pictures, findings and one page.

Five rooms; imports only go downward, and text/ and plots/ do not know each other::

    page/     one report as blocks, its two forms (Markdown, HTML), its files: start at writing.py
    text/     findings, tables, verdicts, what was equal, commands
    plots/    every picture
    compare/  what may be compared, differences and their intervals, costs, published numbers
    read/     records -> cells and seeds, not believed
"""

from normbench.report.page.writing import Report, write

__all__ = ["Report", "write"]
