"""The trainer for a cluster: nanotron, driven as a subprocess in an environment of its own."""
