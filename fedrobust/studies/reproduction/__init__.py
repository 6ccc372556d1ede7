"""Published tables: the stored values of a results page, its text made from them, and whether a new
run gives them again."""
