"""The formats of data files: each reader gives the rows of one file."""
