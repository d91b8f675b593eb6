"""The sections of article.py: what is measured for each claim, and how it is put."""
