"""A local page on which one watches runs: it reads their folders and writes nothing."""
