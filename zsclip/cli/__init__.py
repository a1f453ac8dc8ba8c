"""The command line: the only folder that speaks to a person, and the only one that ends the process."""
