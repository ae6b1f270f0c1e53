"""What ECGrid has of the users' keys, which of them is which, and whether Vault shows what ECGrid accepts."""
