"""Building blocks of the aggregation rules: rounds, updates, their Gram matrix, norms,
coordinate-wise sorting, mixtures."""
