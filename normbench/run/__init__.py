"""One cell: what it is, how its seeds are trained, saved and put away."""
