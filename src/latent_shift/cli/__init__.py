"""The program `latent-shift`: commands that parse, call a room and print; no torch at import."""
