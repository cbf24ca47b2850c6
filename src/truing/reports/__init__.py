"""What a run shows: the table in the terminal, the HTML report, and a model card beside each model."""
