"""A report as blocks of text and pictures, written as Markdown and as one HTML page."""
