"""Results beside the paper: compared, drawn and rendered. No torch."""
