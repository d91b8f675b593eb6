"""A report as blocks, written as Markdown and as one HTML page.

From the top down::

    writing.py   files and the screen: start reading here
    contents.py  what a report says, in order
    sides.py     two folders side by side
    document.py  blocks, and their two forms
    html.py      the HTML page's style
"""
