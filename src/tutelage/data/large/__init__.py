"""Large data: rows and their tokens in memory-mapped files, made once, by several processes, for all."""
