"""How answers are read from replies, and the fingerprint of a reading."""
