"""Client trainers, one a file: a factory that checks its settings and returns a
`fedrobust.types.ClientTrainer`."""
