"""Publishing models on the Hugging Face Hub with their evidence, and checking what is published."""
