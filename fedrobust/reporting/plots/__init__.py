"""Pictures of a run as PNG files. Object-oriented matplotlib only: no pyplot, no global state, no
display needed."""
