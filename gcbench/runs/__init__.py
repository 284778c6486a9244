"""Run folders and the versioned results in them. No torch."""
