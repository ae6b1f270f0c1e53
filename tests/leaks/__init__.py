"""The leak hunt's tools: canaries and the search for them, hostile parties, and a driver that breaks the program."""
