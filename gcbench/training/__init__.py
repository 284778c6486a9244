"""The one training loop, its checkpoints and schedules, and the start of worker processes."""
