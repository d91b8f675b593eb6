"""The pictures: how they look, and what each shows."""
