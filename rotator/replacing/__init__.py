"""How a key is replaced: the claim, the new key found or issued, proved, and shown; and the way back."""
