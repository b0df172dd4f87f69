"""Training: a recipe (YAML) names a task, an objective gives its loss, one loop on accelerate trains it."""
