"""What may be compared, and what the comparison says in numbers with intervals."""
