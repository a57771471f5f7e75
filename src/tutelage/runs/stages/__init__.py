"""What each kind of run does, one file per kind."""
