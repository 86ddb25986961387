"""Tasks: each data set's wording, parsing and grading, in one place; recipes import them from here."""
