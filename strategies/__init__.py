"""Server rules, one a file: a factory that checks its settings and returns a
`fedrobust.aggregation.round.Strategy`."""
