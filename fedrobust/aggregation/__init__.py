"""What every aggregation rule is made of: rounds, updates, their Gram matrix, norms, sorting by
coordinate, mixtures."""
