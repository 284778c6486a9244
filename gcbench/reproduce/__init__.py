"""A table becomes a graph of jobs; what is done is skipped, what is not goes on."""
