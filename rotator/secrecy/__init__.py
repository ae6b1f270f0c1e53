"""What keeps values in: see the README beside this file.

Nothing is imported here, since the process is hardened before anything else is imported.
"""
