"""Studies: variants of one recipe, trained with the same seeds, and what their results say."""
