"""The parts of fault_matrix.py: its rows, what they are made of, and where they happen."""
