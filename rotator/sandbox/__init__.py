"""The other parties, on loopback: an ECGrid simulator and an OpenBao server, so that anyone can run the real thing."""
