"""Metrics on arrays: what a prediction is worth under a named, versioned protocol. No torch."""
