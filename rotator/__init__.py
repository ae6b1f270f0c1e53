"""Rotates ECGrid API keys into HashiCorp Vault."""

__version__ = "0.1.0"
