"""Runs on more than one host: started by torchrun or srun, or as tasks of a Ray cluster."""
