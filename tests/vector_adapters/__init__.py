"""One module a vector file: ``FUNCTIONS`` maps each function that the file names to ours."""
