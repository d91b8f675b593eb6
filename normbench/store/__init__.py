"""The records: one owner for each file of a cell's folder."""
