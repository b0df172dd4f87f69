"""The program `latent-shift`: one file a command that parses, calls a room and prints; no torch at import."""
