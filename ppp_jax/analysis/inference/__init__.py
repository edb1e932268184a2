"""From numbers to evidence: the rotation null, seeds as replicates, intervals and p-values."""
