"""Recipes: typed, versioned YAML in which every value names its source."""
