"""The networks: sparse encoder, dense volume, Gaussian heads, task heads and teachers."""
