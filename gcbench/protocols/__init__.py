"""One kind of job each, from a job file to a result."""
