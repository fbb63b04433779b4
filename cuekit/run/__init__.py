"""Work on whole folders: labels, evaluation, tables and pictures."""
