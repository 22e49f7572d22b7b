"""Sets of models that share one budget: one search that decides who is pruned how much; docs/models.md."""
