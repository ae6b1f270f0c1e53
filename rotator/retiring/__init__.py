"""How a key is ended: debts that are due, the proof that a key is refused, and keys that nobody will publish."""
